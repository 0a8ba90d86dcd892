"""What `make doctor` finds: each check says that all is well, or what is wrong and what repairs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tasks.errors import RootstockError

MEND = "make doctor MEND=1"
LIMIT_S = 120.0
"""A check that takes longer has failed, too: something doesn't answer."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        found: what is so, in words.
        remedy: the command that repairs it; empty if all is well.
        repair: does what the remedy says, and returns what it did; None if only a person can do it.
    """

    found: str
    remedy: str = ""
    repair: Callable[[], str] | None = None


Check = Callable[[], Iterable[Finding]]


def examine(check: Check, limit_s: float = LIMIT_S) -> list[Finding]:
    """The findings of one check. If it fails or hangs, that is a finding."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except RootstockError as error:
            found.append(Finding(f"{type(error).__name__}: {error}", "see the message"))
        except Exception as error:  # noqa: BLE001 - a check may fail in any way, and the others go on
            said = " ".join(str(error).split())[:300]
            found.append(Finding(f"this could not be checked ({type(error).__name__}: {said})", "see the message"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return [*found, Finding(f"no answer within {limit_s:g} s", "check the network and the disk, then run it again")]
    return found


def repaired(finding: Finding) -> Finding:
    """The finding after what is safe was done about it."""
    if finding.repair is None:
        return finding
    try:
        return Finding(f"{finding.found} Repaired: {finding.repair()}")
    except Exception as error:  # noqa: BLE001 - see `examine`
        said = " ".join(str(error).split())[:300]
        return Finding(f"{finding.found} It could not be repaired ({said}).", "see the message")
