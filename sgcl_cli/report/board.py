"""The numbers of a run for TensorBoard, an optional dependency: pip install 'sgcl[tensorboard]'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgcl_cli.errors import ConfigError

_NOT_SHOWN = ("step", "epoch")


class Board:
    """A file of events in a folder.

    :param step: events of an earlier run after this step are hidden.
    :raises ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "--tensorboard needs TensorBoard, which is not installed",
                "pip install 'sgcl[tensorboard]', or leave it out",
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, numbers: Mapping[str, Any], step: int) -> None:
        """Add every number of nested mappings under its path, as loss/total."""
        for name, value in scalars(numbers):
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write the added numbers to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def scalars(numbers: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by their paths; strings, lists and nulls are skipped."""
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{above}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and (above or name not in _NOT_SHOWN):
            yield above + name, float(value)
