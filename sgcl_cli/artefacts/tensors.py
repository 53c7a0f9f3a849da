"""Reading and writing of tensor files, without running code from them or trusting the sizes that they claim.

``torch.load`` with ``weights_only=True`` runs no code but creates any tensor that a file describes: sparse, without content, or
repeating four bytes a million times. Only dense tensors with all of their bytes in the file are accepted here.
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
    """A writable file that stores the OSError of a write, for which torch.save raises a RuntimeError without a reason."""

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
    """``torch.save`` that raises OSError, for example on a full disk.

    :raises OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        recorder = _Recorder(file)
        try:
            torch.save(value, cast(IO[bytes], recorder))
        except RuntimeError as error:
            raise recorder.error or error from error


def load(path: Path, kind: str, remedy: str) -> Any:
    """Load the content of a .pt or .pth file on the CPU.

    :param kind: description of the expected file.
    :param remedy: hint for a file with Python objects.
    :raises ArtefactError: missing, damaged, containing Python objects, or with content larger than the file.
    """
    try:
        _refuse_inflated(reading.plain(path))
        with torch.no_grad():  # otherwise views that require a gradient cannot be loaded
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise reading.unreadable(path, error, f"a {kind}", remedy) from error
    except ArtefactError:
        raise
    except Exception as error:  # the unpickler can raise anything on damaged bytes
        code = reading.code_of(error)
        if code is not None:
            raise reading.unreadable(path, error, f"a {kind}", remedy) from error
        raise ArtefactError(
            f"{path} is not a {kind}: damaged, or it contains Python objects, which are refused", remedy
        ) from error


def _refuse_inflated(path: Path) -> None:
    """Refuse compressed archives, which could be of any size; torch stores the members of its archives uncompressed."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > max(
        path.stat().st_size, 1
    ):
        raise ArtefactError(f"{path} claims more than its size", "torch.save writes no such files: get it again")


def check_dense(tensor: torch.Tensor, where: str) -> None:
    """Check that a tensor is dense and that all of its values are stored.

    :raises ArtefactError: sparse, quantised, nested, without content, or larger than its storage.
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
    """Apply ``check_dense`` to each tensor of a state dict.

    :raises ArtefactError: a tensor is not dense; it is named.
    """
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            check_dense(tensor, f"{where}, {name}")
