"""Files of tensors, read without running code from them and without trusting the sizes that they claim.

``torch.load`` with ``weights_only=True`` runs no code, but it makes whatever tensors a file describes: sparse ones, ones without
content, ones that repeat four bytes a million times. What is used here is dense and held by the file, byte by byte.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from sgcl_cli.artefacts import reading
from sgcl_cli.errors import ArtefactError


class _Recorder:
    """A file to write to that remembers the system's error, which torch.save turns into a RuntimeError without a reason."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise


def save(value: Any, path: Path) -> None:
    """``torch.save`` that raises the error of a full disk.

    :raises OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(value, cast(IO[bytes], recorder))
        except RuntimeError as error:
            raise recorder.error or error from error


def load(path: Path, kind: str, remedy: str) -> Any:
    """What a .pt or .pth file holds, on the CPU.

    :param kind: what the file should be, in words. :param remedy: what to do where it holds Python objects.
    :raises ArtefactError: missing, damaged, holding Python objects, or with content larger than the file.
    """
    try:
        _refuse_inflated(reading.plain(path))
        with torch.no_grad():  # else narrow tensors that need a gradient cannot be loaded
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise reading.unreadable(path, error, f"a {kind}", remedy) from error
    except ArtefactError:
        raise
    except Exception as error:  # an unpickler that is fed with any bytes can fail in any way
        code = reading.code_of(error)
        if code is not None:
            raise reading.unreadable(path, error, f"a {kind}", remedy) from error
        raise ArtefactError(
            f"{path} is not a {kind}: damaged, or it holds Python objects, which are refused", remedy
        ) from error


def _refuse_inflated(path: Path) -> None:
    """torch stores the members of its archives as they are; what is compressed could be of any size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > max(
        path.stat().st_size, 1
    ):
        raise ArtefactError(f"{path} holds more than its size", "torch.save writes no such files: get it again")


def check_dense(tensor: torch.Tensor, where: str) -> None:
    """See that a tensor is of plain numbers, each of which is stored.

    :raises ArtefactError: sparse, quantised, nested, without content, or larger than what is stored of it.
    """
    words = ""
    if tensor.layout != torch.strided or tensor.is_nested:
        words = "sparse or nested"
    elif tensor.device.type != "cpu":
        words = "without content"
    elif tensor.is_quantized:
        words = "quantised"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        words = f"{tuple(tensor.shape)}, of which {tensor.untyped_storage().nbytes()} bytes are stored"
    if words:
        raise ArtefactError(f"{where}: a tensor is {words}", "save it as a dense one: tensor.contiguous().clone()")


def check_all(state: Mapping[Any, Any], where: str) -> None:
    """``check_dense`` of each tensor of a state dict.

    :raises ArtefactError: see there; the tensor is named.
    """
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            check_dense(tensor, f"{where}, {name}")
