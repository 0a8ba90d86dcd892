"""The registry of models: git tags as GTO writes them, so that `gto show` and `dvc artifacts get` read it as it is.

`champion@v1.2.0` registers the model of a commit, `champion#production#7` promotes it, `champion#declined#8` says that
a person didn't want it. The number is the fencing token: it counts up by one, and a tag is made only if there is none
of that name. If git has a remote that shares the runs, the remote decides (the push of a new tag is a
compare-and-swap), else the clone does. Of two who promote at once, one is told that the number is taken.

A tag's message is one line for people and a JSON object. Times never go back, whatever the clocks of the machines say,
because GTO takes the latest tag for the one that counts.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.errors import RunError
from tasks.runs.git import NO_COMMIT, git, git_path, hash_tag, succeeds
from tasks.runs.run_context import Say
from tasks.runs.sharing import find_remote
from tasks.runs.tag_messages import LATEST, parse_message

ARTIFACT = "champion"
"""The name of the model in dvc.yaml."""
PRODUCTION, DECLINED = "production", "declined"
"""The stages, in GTO's word, to which a version can be assigned."""
_NAME = rf"{ARTIFACT}(?:@(?P<version>v\d+\.\d+\.\d+)|#(?P<stage>[\w/-]+?))(?P<cancelled>!?)(?:#(?P<number>\d+))?"
_FORMAT = "%00".join(
    ("%(refname:strip=2)", "%(*objectname)", "%(taggerdate:unix)", "%(taggername)", "%(contents)", "%00")
)
TAGS = (f"refs/tags/{ARTIFACT}@*", f"refs/tags/{ARTIFACT}#*")
"""Patterns of the registry's tags."""
_STALE_S = 60.0
"""git holds the lock of a tag for milliseconds: one that is this old was left by a killed git."""


class TakenError(RunError):
    """Somebody else has made the tag: read the registry again."""


@dataclass(frozen=True)
class Entry:
    """One annotated tag.

    Attributes:
        tag: its name.
        commit: whose model it tells of.
        at: when it was made, seconds since 1970.
        by: who made it.
        subject: the line for people.
        about: the JSON object of the message; empty if another program made the tag.
        version: such as v1.2.0, if the tag registers one.
        stage: the stage of GTO to which the tag assigns the commit.
        cancelled: the tag takes a version or an assignment back.
        number: fencing token; 0 for a version.
    """

    tag: str
    commit: str
    at: int = 0
    by: str = ""
    subject: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None
    stage: str | None = None
    cancelled: bool = False
    number: int = 0


@dataclass(frozen=True)
class Registry:
    """What the tags say.

    Attributes:
        entries: in the order in which they were made.
    """

    entries: tuple[Entry, ...] = ()

    @cached_property
    def versions(self) -> list[Entry]:
        """The registered versions, the newest last, without those that were taken back."""
        gone = {one.version for one in self.entries if one.version and one.cancelled}
        return sorted((one for one in self.entries if one.version and one.version not in gone), key=_order)

    def version(self, name: str) -> Entry:
        """The version of a name.

        Raises:
            RunError: there is none.
        """
        found = [one for one in self.versions if one.version == name]
        if not found:
            known = ", ".join(str(one.version) for one in self.versions) or "none"
            raise RunError(f"The registry has no version {name}. It has: {known}")
        return found[0]

    def version_at(self, commit: str) -> Entry | None:
        """The version that is registered for a commit."""
        return next((one for one in reversed(self.versions) if one.commit == commit), None)

    def assigned(self, stage: str) -> list[Entry]:
        """The assignments to a stage, by their numbers."""
        return sorted((one for one in self.entries if one.stage == stage), key=lambda one: one.number)

    @property
    def production(self) -> Entry | None:
        """The version in production; None if there is none."""
        last = self.assigned(PRODUCTION)[-1:]
        return self.version_at(last[0].commit) if last and not last[0].cancelled else None

    @property
    def before_production(self) -> Entry | None:
        """The version to which a roll-back leads: who rolls back twice goes back two versions."""
        path: list[str] = []
        for one in self.assigned(PRODUCTION):
            if not one.cancelled and self.version_at(one.commit):
                path = [*path[: path.index(one.commit)], one.commit] if one.commit in path else [*path, one.commit]
        return self.version_at(path[-2]) if len(path) > 1 else None

    def is_decided(self, version: Entry) -> bool:
        """Whether it has been promoted or declined, or production has changed since it was registered."""
        changes = [one for one in self.entries if one.stage in (PRODUCTION, DECLINED)]
        return any(one.commit == version.commit or (one.stage == PRODUCTION and one.at > version.at) for one in changes)

    @property
    def next_number(self) -> int:
        return max((one.number for one in self.entries), default=0) + 1

    def next_version(self, classes: Iterable[str]) -> str:
        """The name of the next version: the first number goes up if the classes differ, which callers have to know."""
        if not self.versions:
            return "v1.0.0"
        last = self.versions[-1]
        major, minor, _ = _order(last)
        return f"v{major}.{minor + 1}.0" if last.about.get("classes") == list(classes) else f"v{major + 1}.0.0"


def read_registry(clone: Path) -> Registry:
    """What the clone knows; `fetch_registry` asks the remote first."""
    listed = git(clone, "for-each-ref", f"--format={_FORMAT}", *TAGS)
    entries = []
    for record in listed.split("\0\0\n"):
        name, commit, at, by, message = [*record.removesuffix("\0\0").split("\0", 4), "", "", "", ""][:5]
        matched = re.fullmatch(_NAME, name)
        if matched and commit:  # GTO ignores tags without a message, too
            entries.append(_entry(matched, commit, min(int(at or 0), LATEST), by, message))
    return Registry(tuple(sorted(entries, key=lambda one: (one.at, one.number))))


def fetch_registry(clone: Path, remote: str | None, say: Say) -> Registry:
    """The registry as git's remote has it, and what only this clone has.

    Raises:
        RunError: a tag here isn't the remote's tag of that name.
        TransientError: the remote doesn't answer.
    """
    if remote is not None:
        _remove_stale_locks(clone, say)
        specs = [f"{pattern}:{pattern}" for pattern in TAGS]
        try:
            git(clone, "fetch", "--no-tags", "--no-write-fetch-head", "--refmap=", remote, *specs)
        except RunError as error:
            if "clobber" not in str(error):
                raise
            raise RunError(
                f"This clone and {remote} have different tags of the same name: both have registered versions before "
                f"they shared them. Those of {remote} count. Take them: git fetch --force {remote} "
                f"'refs/tags/{ARTIFACT}*:refs/tags/{ARTIFACT}*'. {error}"
            ) from None
    return read_registry(clone)


def add_entry(
    clone: Path,
    remote: str | None,
    registry: Registry,
    tag: str,
    commit: str,
    subject: str,
    about: Mapping[str, Any],
    say: Say,
) -> None:
    """Make a tag, if there is none of that name: on the remote first, then here.

    Args:
        clone: where the tag is made.
        remote: of git, which decides; None: the clone decides.
        registry: as it was read before, for the time of the tag.
        tag: its name.
        commit: which the remote gets, too, if it lacks it.
        subject: one line for people.
        about: JSON; its `by` is the tag's author.
        say: tells a person a line.

    Raises:
        TakenError: there is a tag of that name.
        TransientError: the remote doesn't answer.
    """
    _remove_stale_locks(clone, say)
    at = max([int(time.time()), *(one.at + 1 for one in registry.entries)])
    message = f"{subject}\n\n{json.dumps(about, indent=1, ensure_ascii=False, sort_keys=True)}\n"
    made = hash_tag(clone, tag, commit, str(about.get("by", "")), at, message)
    reference = f"refs/tags/{tag}"
    if remote is not None:
        try:
            git(clone, "push", "--quiet", remote, f"{made}:{reference}")
        except RunError as error:
            if not git(clone, "ls-remote", remote, reference):
                raise
            raise TakenError(f"{tag} is on {remote} already: somebody else was faster.") from error
    try:
        git(clone, "update-ref", reference, made, NO_COMMIT)
    except RunError as error:
        if not succeeds(clone, "show-ref", "--verify", "-q", reference):
            raise
        if remote is None:
            raise TakenError(f"{tag} exists already: somebody else was faster.") from error


def shared_remote(clone: Path, commit: str) -> str | None:
    """The remote of git that decides; None if the runs of this clone aren't shared."""
    return find_remote(clone, commit)[0]


def _entry(matched: re.Match[str], commit: str, at: int, by: str, message: str) -> Entry:
    subject, about = parse_message(message)
    version, stage, cancelled, number = matched.group("version", "stage", "cancelled", "number")
    by = "".join(char for char in by if char.isprintable())
    return Entry(matched[0], commit, at, by, subject, about, version, stage, bool(cancelled), int(number or 0))


def _order(entry: Entry) -> tuple[int, ...]:
    return tuple(int(part) for part in str(entry.version).removeprefix("v").split("."))


def _remove_stale_locks(clone: Path, say: Say) -> None:
    for lock in git_path(clone, "refs/tags").glob(f"{ARTIFACT}*.lock"):
        if time.time() - lock.stat().st_mtime > _STALE_S:
            say(f"Removed {lock}, which a killed git had left.")
            lock.unlink(missing_ok=True)
