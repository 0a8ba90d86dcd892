"""The exceptions of the project. Each says what was wrong, where, and what fixes it.

RootstockError
├── SettingsError      params.yaml can't be read, or a value in it is not allowed
├── SourceError        the images can't be found or read, or their structure is not understood
├── DataError          the images were read, but no classifier can be trained on them
├── IntegrityError     bytes on disk are not those that were written, or a file is missing
├── WeightsError       the VGG16 weights are missing, or are not the published ones
├── TrainingError      training diverged or collapsed
├── ExportError        an exported model doesn't predict the same as the trained one
├── PredictError       no image could be scored, or the model can't be loaded
├── StorageError       the disk is full, read-only or over quota
├── RunError           a run can't start where it should, or its results can't be kept
├── TransientError     something outside is busy or doesn't answer: waiting helps
└── StageError         a stage's child process failed, or was stopped
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

USER_ERROR = 2
"""Exit code of a program that stopped because of something that only the user can fix; a retry can't help."""
TRANSIENT_ERROR = 75
"""Exit code of a program that stopped because of a TransientError (EX_TEMPFAIL of sysexits.h)."""


class RootstockError(Exception):
    """Base of all errors that are no mistake of the program; printed without a traceback.

    Attributes:
        exit_code: of a program that stops because of it.
    """

    exit_code: int = USER_ERROR


class SettingsError(RootstockError):
    """params.yaml, or a setting given on the command line, is wrong."""


class SourceError(RootstockError):
    """The source of images is missing, empty, or not laid out as expected."""


class DataError(RootstockError):
    """No classifier can be trained on the images: too few, only one class, or too many refused."""


class IntegrityError(RootstockError):
    """Stored bytes don't match their checksum."""


class WeightsError(RootstockError):
    """The pretrained weights are missing, or not the published ones."""


class TrainingError(RootstockError):
    """Training did not produce a usable model."""


class ExportError(RootstockError):
    """An exported model doesn't predict the same as the trained one."""


class PredictError(RootstockError):
    """Nothing could be scored."""


class StorageError(RootstockError):
    """The disk is full, read-only, or over its quota."""


class RunError(RootstockError):
    """A run lacks its commit, folder or work pool, or its result comes too late."""


class TransientError(RootstockError):
    """Something outside is busy or doesn't answer. The same may work later, without anybody's help."""

    exit_code = TRANSIENT_ERROR


class StageError(RootstockError):
    """A stage's child process failed."""


def did_you_mean(received: str, known: Iterable[str]) -> str:
    """The sentence " Did you mean ...?" with the known name that is most similar; empty if none is similar."""
    return ask(closest(received, known))


def closest(received: str, known: Iterable[str]) -> list[str]:
    """The known name that is most similar, whatever its case; none if none is similar."""
    import difflib  # only errors need it

    by_lower = {name.lower(): name for name in known}
    return [by_lower[name] for name in difflib.get_close_matches(received.lower(), by_lower, 1, 0.75)]


def ask(names: Sequence[str]) -> str:
    """The sentence " Did you mean ...?"; empty without names."""
    *others, last = names or [""]
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""
