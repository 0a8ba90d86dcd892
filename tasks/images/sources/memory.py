"""The memory that this process can still get."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def available_bytes(cgroups: Path = CGROUPS, own: Path = _OWN) -> int:
    """Bytes that are free or can be freed: of the machine, and of every control group of this process.

    A container or a service may use less than the machine has; beyond its limit the kernel kills.

    Args:
        cgroups: the control groups of Linux, version 2. Elsewhere only the machine counts.
        own: names the group of this process.
    """
    rooms: list[float] = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError, IndexError):
        name = own.read_text(encoding="utf-8").split("0::/", 1)[1].splitlines()[0]
        group = cgroups / name
        rooms += [_room(folder) for folder in (group, *group.parents) if folder.is_relative_to(cgroups)]
    return int(min(rooms))


def _room(group: Path) -> float:
    """Bytes below a control group's limit; files that it has in memory can be dropped."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        states = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return float(limit) - used + int(states["inactive_file"])  # without a limit: float("max") fails
    except (OSError, ValueError, KeyError):
        return float("inf")
