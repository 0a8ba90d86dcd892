"""The soak's processes: found by a mark in their environment, told apart by their commands."""

from __future__ import annotations

from pathlib import Path

import psutil

ROLES = {
    "process_guard.py": "guard",  # its command line names the command that it guards, so it comes first
    "flows.server_app": "server",
    " worker start ": "worker",
    "patient_worker": "worker",
    "flows.start": "engine",
    "prefect.engine": "engine",
    "-m tasks.": "stage",
    "late_stages.py": "late stage",
    "-m dvc ": "dvc",
}
"""Part of a command line -> what the process is; the first that fits decides."""
OF_RUNS = ("engine", "guard", "dvc", "stage", "late stage", "git")


def ours(mark: Path) -> list[psutil.Process]:
    """All living processes with the mark, oldest first."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ROOTSTOCK_SOAK") == str(mark) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


def role_of(command: list[str]) -> str:
    line = f"{' '.join(command)} "
    if command and command[0].endswith("git"):
        return "git"
    if command and command[0].endswith("sh"):
        return "shell"
    return next((role for part, role in ROLES.items() if part in line), "other")


def by_role(mark: Path) -> dict[str, list[psutil.Process]]:
    roles: dict[str, list[psutil.Process]] = {}
    for process in ours(mark):
        try:
            roles.setdefault(role_of(process.cmdline()), []).append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return roles
