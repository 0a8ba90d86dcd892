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
    """params.yaml, or a setting given on the command line, is wrong.

    What to do: read the list of settings in the message, and correct them in `params.yaml` or behind `SET=`.
    """


class SourceError(RootstockError):
    """The source of images is missing, empty, or not laid out as expected.

    What to do: check the path, the address or the table that the message names.
    `SOURCE=` and `source.*` say where images are.
    """


class DataError(RootstockError):
    """No classifier can be trained on the images: too few, only one class, or too many refused.

    What to do: add images, or look at `reports/data.html` for why they were refused. The message
    names the setting, if one decides.
    """


class IntegrityError(RootstockError):
    """Stored bytes don't match their checksum.

    What to do: run the same command again: what is damaged is computed or fetched again. If it stays, `make doctor`.
    """


class WeightsError(RootstockError):
    """The pretrained weights are missing, or not the published ones.

    What to do: `make setup` installs the weights again; `ROOTSTOCK_VGG16_WEIGHTS` names a file of your own.
    """


class TrainingError(RootstockError):
    """Training did not produce a usable model.

    What to do: lower the learning rate that the message names, or train with another strategy.
    """


class ExportError(RootstockError):
    """An exported model doesn't predict the same as the trained one.

    What to do: leave out the format that the message names (`export.formats`), or raise `export.probability_tolerance`
    if the difference is small enough for you.
    """


class PredictError(RootstockError):
    """Nothing could be scored.

    What to do: get the model's folder again (`dvc checkout --force export`), or check the paths of the images.
    """


class StorageError(RootstockError):
    """The disk is full, read-only, or over its quota.

    What to do: make room (`make tidy`), or make the place writable. Then run the same command again: it continues.
    """


class RunError(RootstockError):
    """A run lacks its commit, folder or work pool, or its result comes too late.

    What to do: the message names the command: mostly to commit, to deploy, to choose a branch, or to wait
    for another run.
    """


class TransientError(RootstockError):
    """Something outside is busy or doesn't answer. The same may work later, without anybody's help.

    What to do: wait, then run the same command again. Runs do that by themselves, up to `run.outage_limit_s`.
    """

    exit_code = TRANSIENT_ERROR


class StageError(RootstockError):
    """A stage's child process failed.

    What to do: read the stage's own output above this line. After a crash, the next run continues where
    the stage stopped.
    """


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
