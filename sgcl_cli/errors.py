"""The exceptions that sgcl raises; each has a message and a hint.

    SgclError
    ├── ConfigError      exit 2   an option, a configuration file, or an output made under other settings
    ├── LabelError       exit 2   labels or splits that cannot be evaluated honestly
    ├── SlideError       exit 1   one slide: not a slide, unreadable, no resolution, too coarse
    ├── ArtefactError    exit 1   a file of ours (or a peer's) is missing, damaged, foreign or cannot be written
    │   ├── WriteError              the disk is full, or the folder may not be written to
    │   └── UnavailableError        a file that may be intact cannot be read at present
    ├── TrainingError    exit 1   training cannot go on: non-finite loss, too few patches, no such device
    └── ElsewhereError   exit 1   another process of the same run failed, and says why

Each carries a message (what, which file, why) and a hint (what to do). A foreign exception is translated in the room
that knows the foreign library. ``Interrupted`` is no error: it is a signal on its way to the exit code.
"""

from __future__ import annotations

_LONGEST = 2000  # characters of a message


def _one_line(text: str) -> str:
    """A text without line breaks and control characters, which a file may bring into it; of a long one both ends."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 4 :]}"


class SgclError(Exception):
    """An error that its reader can act on.

    :param message: what happened, to which file, and why; one line.
    :param hint: what to do about it; one line, may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _one_line(message)
        self.hint = _one_line(hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[SgclError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # crosses process borders with its hint


class ConfigError(SgclError):
    """A wrong option or configuration, or an output folder that was made under other settings."""

    exit_code = 2


class LabelError(SgclError):
    """Labels or splits that do not allow an honest evaluation."""

    exit_code = 2


class SlideError(SgclError):
    """One slide cannot be used; the others can."""


class ArtefactError(SgclError):
    """An artefact is missing, damaged, foreign, or cannot be written."""


class WriteError(ArtefactError):
    """A file cannot be written: the disk is full, or the folder is not to be written to. Other files would fail as well."""


class UnavailableError(ArtefactError):
    """A file that may be intact cannot be read at present: it is in use, the disk fails, or permission is denied."""


class TrainingError(SgclError):
    """Training cannot start or cannot go on."""


class ElsewhereError(SgclError):
    """Another process of the same run failed and reports why; this one ends without a message."""

    def __init__(self, message: str = "another process of this run failed", hint: str = "see its message") -> None:
        super().__init__(message, hint)


class Interrupted(BaseException):
    """A signal asked the process to stop; the exit code is 128 + signum.

    :param told: whether another process of the same run has informed the user.
    """

    def __init__(self, signum: int, told: bool = False) -> None:
        super().__init__(signum)
        self.signum = signum
        self.told = told
