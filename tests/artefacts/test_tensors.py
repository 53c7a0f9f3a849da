"""Files of tensors: no code is run, no size is believed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from sgcl_cli.artefacts.tensors import check_all, check_dense, load, save
from sgcl_cli.errors import ArtefactError


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    state = {"w": torch.arange(6.0).view(2, 3), "half": torch.ones(2, dtype=torch.float16, requires_grad=True), "n": 3}
    save(state, tmp_path / "a.pt")
    found = load(tmp_path / "a.pt", "checkpoint", "make it again")
    assert torch.equal(found["w"], state["w"]) and found["n"] == 3
    assert found["half"].dtype == torch.float16 and found["half"].tolist() == [1, 1]


def test_python_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"path": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(ArtefactError, match=r"a\.pt is not a checkpoint: .*Python objects") as caught:
        load(tmp_path / "a.pt", "checkpoint", "save a state dict")
    assert caught.value.hint == "save a state dict"


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w") as small:
        for name in plain.namelist():
            small.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtefactError, match=r"b\.pt claims more than its size"):
        load(tmp_path / "b.pt", "checkpoint", "")


def test_an_absent_or_cut_file(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no such file"):
        load(tmp_path / "a.pt", "checkpoint", "")
    save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:2000])
    with pytest.raises(ArtefactError, match=r"a\.pt is not a checkpoint: damaged"):
        load(tmp_path / "a.pt", "checkpoint", "")


def test_a_full_disk_is_an_error_of_the_system() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left"):
        save({"w": torch.zeros(1_000_000)}, Path("/dev/full"))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), "sparse or nested"),
        (torch.empty(3, device="meta"), "without content"),
        (torch.ones(1).expand(1000), r"\(1000,\), of which 4 bytes are stored"),
    ],
)
def test_tensors_that_are_not_dense(tensor: torch.Tensor, words: str) -> None:
    with pytest.raises(ArtefactError, match=f"x: a tensor is {words}") as caught:
        check_dense(tensor, "x")
    assert "tensor.contiguous().clone()" in caught.value.hint


def test_the_tensor_of_a_state_is_named() -> None:
    check_all({"w": torch.eye(3).T, "n": 3}, "a.pt")
    with pytest.raises(ArtefactError, match=r"a\.pt, bias: a tensor is without content"):
        check_all({"w": torch.eye(3), "bias": torch.empty(1, device="meta")}, "a.pt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # torch advises against making them
def test_quantised_tensors() -> None:
    with pytest.raises(ArtefactError, match="x: a tensor is quantised"):
        check_dense(torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "x")
