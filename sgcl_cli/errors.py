"""The exceptions of sgcl.

    SgclError
    ├── ConfigError      exit 2   an option or configuration file is wrong, or an output was made with other settings
    ├── LabelError       exit 2   labels or splits do not allow an unbiased evaluation
    ├── SlideError       exit 1   one slide: not a slide, unreadable, no resolution, too coarse
    ├── ArtefactError    exit 1   a file of sgcl or another tool is missing, damaged, of another format, or cannot be written
    │   ├── WriteError              the disk is full, or the folder is not writable
    │   └── UnavailableError        a file cannot be read at present, but may be intact
    ├── TrainingError    exit 1   training cannot continue: non-finite loss, too few patches, no such device
    └── ElsewhereError   exit 1   another process of the same run failed and reports why

Each has a message (what, which file, why) and a hint (what to do). Exceptions of a library are translated in the package that
uses the library. ``Interrupted`` is not an error; it carries a signal to the exit code.
"""

from __future__ import annotations

_LONGEST = 2000  # most characters of a message


def _one_line(text: str) -> str:
    """A string with line breaks removed and control characters escaped; the middle of a long one is left out."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 4 :]}"


class SgclError(Exception):
    """An error that the user can act on.

    :param message: what happened, to which file, and why; one line.
    :param hint: what to do; one line, may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = _one_line(message)
        self.hint = _one_line(hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[SgclError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # pickled with its hint


class ConfigError(SgclError):
    """A wrong option or configuration, or an output folder that was made with other settings."""

    exit_code = 2


class LabelError(SgclError):
    """Labels or splits that do not allow an unbiased evaluation."""

    exit_code = 2


class SlideError(SgclError):
    """One slide cannot be used; other slides are not affected."""


class ArtefactError(SgclError):
    """An artefact is missing, damaged, of another format, or cannot be written."""


class WriteError(ArtefactError):
    """A file cannot be written: the disk is full, or the folder is not writable. Other files would fail as well."""


class UnavailableError(ArtefactError):
    """A file cannot be read at present but may be intact: it is in use, the disk fails, or permission is denied."""


class TrainingError(SgclError):
    """Training cannot start or continue."""


class ElsewhereError(SgclError):
    """Another process of the same run failed and reports why; this one ends without a message."""

    def __init__(self, message: str = "another process of this run failed", hint: str = "see its message") -> None:
        super().__init__(message, hint)


class Interrupted(BaseException):
    """A signal requested the process to stop; the exit code is 128 + signum.

    :param reported: whether another process of the same run has informed the user.
    """

    def __init__(self, signum: int, reported: bool = False) -> None:
        super().__init__(signum)
        self.signum = signum
        self.reported = reported
