"""The page of all errors, from the docstrings of `tasks/errors.py`: what each means, and what to do."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterator

from handbook.markdown import NOTE, code, table
from handbook.what_runs_again import PROJECT
from tasks import errors

PAGE = PROJECT / "docs/reference/errors.md"
TEXT = """# All errors and exit codes

{note}An error that you can fix, or that passes, is one line, such as `SourceError: images doesn't exist.` It says what was wrong, where, and mostly
which command or setting helps. [What do I do about an error?](../troubleshooting.md) goes through the most frequent ones. A traceback is a mistake of the
program.

## Errors

{errors}
## Exit codes

{codes}
The same codes hold for `make run`'s program, for the stages (`python -m tasks.<stage>`) and for the other programs. `make` itself ends with 2
if its program failed.
"""


def page() -> str:
    rows = [(code(kind.__name__), str(kind.exit_code), *_told(kind)) for kind in kinds()]
    codes = (
        ("0", "success"),
        ("1", "a crash, or a time limit (`run.stage_time_limit_s`)"),
        (str(errors.USER_ERROR), "an error that you can fix; the same command would fail again"),
        (str(errors.TRANSIENT_ERROR), "something outside is busy or doesn't answer; the same command may work later"),
        (str(128 + signal.SIGINT), "stopped by Ctrl-C; finished work is kept"),
        (str(128 + signal.SIGTERM), "stopped by SIGTERM; finished work is kept"),
    )
    return TEXT.format(
        note=NOTE,
        errors=table(("error", "exit code", "meaning", "what to do"), rows),
        codes=table(("code", "meaning"), codes),
    )


def kinds() -> Iterator[type[errors.RootstockError]]:
    """Every error that a program prints, in the order of the module."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.RootstockError) and kind is not errors.RootstockError:
            yield kind


def _told(kind: type[errors.RootstockError]) -> tuple[str, str]:
    """What an error means, and what to do: the first paragraph of its docstring, and the second one."""
    meaning, _, todo = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")
    if not todo.startswith("What to do: "):
        raise ValueError(f"{kind.__name__} needs a second paragraph in its docstring: What to do: ...")
    todo = _line(todo.removeprefix("What to do: "))
    return _line(meaning), todo[0].upper() + todo[1:]


def _line(text: str) -> str:
    return " ".join(text.split())
