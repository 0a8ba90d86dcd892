"""Two machines take turns for some nights, and one of them dies for good: history is one line, and no split moves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tasks.runs.machines import BRANCH, Site, Store
from tests.tasks.runs.repository import git


def take_turns(folder: Path, nights: int, remote: Store | None = None) -> Site:
    """Let two machines take turns. In the middle one is killed at work and its clone is deleted; a new one replaces it.

    Args:
        folder: for all of it.
        nights: how many there are, the unfinished one included.
        remote: of DVC; a folder if there is none.

    Raises:
        AssertionError: anything but the unfinished night is lost, or an image has moved to another split.
    """
    site = Site(folder, remote=remote)
    for number in range(6):
        site.add_image(f"image-{number}")
    machines = [site.machine("one"), site.machine("two")]
    finished: list[str] = []
    splits: dict[str, str] = {}
    read: list[str] = []
    for night in range(1, nights + 1):
        site.add_image(f"new-{night}")
        if night % 5 == 0:
            site.add_image(f"also-{night}", like=f"image-{night % 6}")
        machine = machines[night % 2]
        if night == (nights + 1) // 2:
            assert machine.night(str(night), kill_after="prepare") == -9
            machine.read()
            shutil.rmtree(machine.clone)
            machines[night % 2] = site.machine("three")
            continue
        assert machine.night(str(night)) == 0, machine.said
        finished.append(str(night))
        before, splits = splits, site.splits()
        assert before.items() <= splits.items()
        read += machine.read()
        assert sorted(read) == sorted(path.name for path in site.images.iterdir()) == sorted(splits)
    assert site.titles() == finished
    assert len(git(site.history, "log", "--first-parent", "--format=%H", "--all", "--not", "main").split()) == len(
        finished
    )
    for back in range(len(finished)):  # every version is still there
        assert site.splits(f"{BRANCH}~{back}").items() <= splits.items()
        assert site.lacking(f"{BRANCH}~{back}") == set()
    return site


@pytest.mark.slow
def test_machines_take_turns_and_the_death_of_one_loses_only_its_unfinished_night(tmp_path: Path) -> None:
    take_turns(tmp_path, 5)
