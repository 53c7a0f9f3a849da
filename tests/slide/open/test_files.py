from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.files import check_readable, companions, identity


def test_identity_depends_on_size_first_and_last_mebibyte(tmp_path: Path):
    path = tmp_path / "big"
    content = bytearray(os.urandom(3 * 2**20))
    path.write_bytes(content)
    first = identity(path)
    assert first.startswith(f"{3 * 2**20}-")
    for position, same in ((0, False), (len(content) - 1, False), (len(content) // 2, True)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        assert (identity(path) == first) is same
    path.write_bytes(content + b"x")
    assert identity(path) != first
    other = tmp_path / "other"
    other.write_bytes(b"abc")
    both = identity(path, [other])
    assert both == identity(other, [path]) != identity(path) and both.startswith(f"{3 * 2**20 + 1 + 3}-")
    other.write_bytes(b"abd")
    assert identity(path, [other]) != both


def mirax(folder: Path, name: str, data: bytes) -> Path:
    inner = folder / name
    inner.mkdir(parents=True)
    (inner / "Slidedat.ini").write_text("[GENERAL]\n")
    (inner / "Data0000.dat").write_bytes(data)
    path = folder / f"{name}.mrxs"
    path.write_bytes(b"the same preview")
    return path


def test_identity_covers_the_folder_of_a_mirax_slide(tmp_path: Path):
    one, two = mirax(tmp_path, "one", b"1" * 100), mirax(tmp_path, "two", b"2" * 100)
    assert [file.name for file in companions(one)] == ["Data0000.dat", "Slidedat.ini"]
    first = identity(one)
    assert first != identity(two) and first.startswith(f"{16 + 10 + 100}-")
    (tmp_path / "one" / "Data0000.dat").write_bytes(b"1" * 50 + b"0" + b"1" * 49)
    assert identity(one) != first
    (tmp_path / "one" / "Data0000.dat").write_bytes(b"1" * 100)
    assert identity(one) == first
    (tmp_path / "one" / "Data0000.dat").rename(tmp_path / "one" / "Data0001.dat")
    assert identity(one) != first


@pytest.mark.parametrize("suffix", [".vms", ".vmu"])
def test_identity_covers_the_images_of_a_hamamatsu_table(tmp_path: Path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=map.jpg\n"
        "OptimisationFile=a.opt\nMacroImage=macro.jpg\nImageFile(2,0)=../outside.jpg\nAuthCode=x.jpg\n"
    )
    for name in ("a.jpg", "b.jpg", "map.jpg", "a.opt"):
        (tmp_path / name).write_bytes(name.encode())
    assert [file.name for file in companions(path)] == ["a.jpg", "a.opt", "b.jpg", "macro.jpg", "map.jpg"]
    before = identity(path)
    (tmp_path / "b.jpg").write_bytes(b"other")
    changed = identity(path)
    (tmp_path / "macro.jpg").write_bytes(b"added later")
    assert len({before, changed, identity(path)}) == 3


def test_a_file_that_is_not_there(tmp_path: Path):
    assert companions(tmp_path / "a.mrxs") == () == companions(tmp_path / "a.vms")
    with pytest.raises(SlideError, match=r"a\.vms cannot be read: No such file"):
        identity(tmp_path / "a.vms")


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a socket"])
def test_only_files_are_opened(tmp_path: Path, kind: str):
    path = Path("/dev/zero")
    if kind == "a FIFO":
        path = tmp_path / "a.svs"
        os.mkfifo(path)
    if kind == "a socket":
        path = tmp_path / "a.tif"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    for read in (identity, check_readable):
        with pytest.raises(SlideError, match=f"cannot be read: it is {kind}, not a file"):
            read(path)
    (tmp_path / "whole").write_bytes(b"abc")
    with pytest.raises(SlideError, match=f"it is {kind}"):
        identity(tmp_path / "whole", [path])
