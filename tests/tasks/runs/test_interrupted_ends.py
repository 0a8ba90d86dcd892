"""A night is killed anywhere between its last stage and its end: the next one ends equal to an undisturbed one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.runs.machines import BRANCH, Machine, Site
from tests.tasks.runs.repository import git

BOUNDARY = (
    r"git |"  # every command
    r"os\.rename .*/store/|"  # every file gets its name on DVC's remote
    r"shutil\.rmtree |os\.remove (\.git|run\.json|gitdir)$|os\.rmdir (out|\.dvc)$"  # the folder and git's record go
)
KINDS = ("git add", "git commit-tree", "os.rename", "git push", "git update-ref", "shutil.rmtree", "os.remove gitdir")


@pytest.mark.slow
def test_night_that_is_killed_at_any_point_after_its_last_stage_is_ended_by_the_next_one(tmp_path: Path) -> None:
    site, trace = Site(tmp_path / "site"), tmp_path / "points"
    for number in range(3):
        site.add_image(f"image-{number}")
    machine = site.machine("one")
    assert machine.night("first") == 0, machine.said
    site.add_image("new")
    assert machine.night("killed", kill_after="train") == -9
    assert machine.read() == ["image-0", "image-1", "image-2", "new"]
    site.save("worked")
    assert machine.night("undisturbed", unchanged=True, points=str(trace), copy_at=BOUNDARY) == 0, machine.said
    undisturbed = state(site, machine)

    points = trace.read_text().splitlines()
    chosen = [number for number, point in enumerate(points, 1) if re.match(BOUNDARY, point)]
    assert [kind for kind in KINDS if not any(points[number - 1].startswith(kind) for number in chosen)] == []

    def check(number: int) -> None:
        assert machine.night("next", unchanged=True) == 0, machine.said
        assert state(site, machine) == undisturbed, points[number - 1]
        assert machine.read() == []

    for number in chosen:
        site.restore(str(number))
        check(number)
    for number in chosen[::12]:  # a real kill leaves no more than these copies hold
        site.restore("worked")
        assert machine.night("killed", unchanged=True, points=str(trace), kill_at=number) == -9
        check(number)
    print(f"\nkilled at {len(chosen)} points of {len(points)} system calls")
    assert len(chosen) >= 20


def state(site: Site, machine: Machine) -> dict[str, Any]:
    """All that the next run, another machine or a person can see."""
    assert machine.git("rev-parse", BRANCH) == git(site.history, "rev-parse", BRANCH)
    first, *others = site.titles()
    return {
        "runs": (first, len(others)),
        "files": git(site.history, "ls-tree", "-r", BRANCH),
        "store": {name: content for name, content in site.objects().items() if not name.endswith(".tmp")},
        "worktrees": len(machine.git("worktree", "list").splitlines()),
        "folders": [path.name for path in (machine.clone / ".rootstock/runs").iterdir()],
        "clone": machine.git("status", "--short"),
        "splits": site.splits(),
    }
