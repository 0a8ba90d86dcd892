"""Program `doctor`: checks the clone and all that it needs, and says what is wrong and which command repairs it.

Usage: python -m flows.doctor [--repair]. With `--repair`, it does what is safe. Exit code 0 if all is well, else 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from flows.login import with_login
from flows.prefect_health import check_clocks, check_server
from tasks.errors import USER_ERROR
from tasks.runs import health
from tasks.runs.dvc_state.health import check_cache, check_remote, check_torn_files
from tasks.runs.findings import Check, Finding, examine, repaired
from tasks.workspace import Workspace

_DAY_S = 86400
_ASK_TENSORFLOW = (
    "from tasks.vgg.quiet_tensorflow import load_cusolver; load_cusolver(); "
    "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
)
_REASON = re.compile("Could not load dynamic library '[^']+'|failed call to cuInit: [^\n]+")
"""What TensorFlow writes about a GPU that it can't use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each finding. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.doctor", description="Say what is wrong, and what repairs it."
    )
    parser.add_argument("--repair", nargs="?", const="1", choices=["1"], help="do what is safe")
    repair = parser.parse_args(arguments).repair
    wrong = 0
    for subject, check in checks(Workspace.at(Path.cwd()), dict(os.environ)):
        for finding in examine(check):
            finding = repaired(finding) if repair else finding
            wrong += bool(finding.remedy)
            print(line(subject, finding), flush=True)
    print(f"\n{wrong} {'thing is' if wrong == 1 else 'things are'} wrong." if wrong else "\nAll is well.", flush=True)
    return USER_ERROR if wrong else 0


def line(subject: str, finding: Finding) -> str:
    """A finding as a line: `ok`, or `WRONG` with the command that repairs it."""
    if not finding.remedy:
        return f"ok     {subject}: {finding.found}"
    return f"WRONG  {subject}: {finding.found}\n       Repair it: {finding.remedy}"


def checks(workspace: Workspace, environment: dict[str, str]) -> list[tuple[str, Check]]:
    """All checks with their subjects, the quick ones first."""
    client = with_login(workspace, environment)
    seed = int(time.time() // _DAY_S)  # other objects every day
    return [
        ("environment", partial(check_environment, workspace)),
        ("disk", partial(health.check_disk, workspace)),
        ("git locks", partial(health.check_locks, workspace)),
        ("git hooks", partial(health.check_hooks, workspace)),
        ("unfinished files", partial(health.check_temporaries, workspace)),
        ("folders of runs", partial(health.check_folders, workspace)),
        ("branches of runs", partial(health.check_branches, workspace)),
        ("DVC's files", partial(check_torn_files, workspace)),
        ("DVC's cache", partial(check_cache, workspace, seed)),
        ("DVC's remote", partial(check_remote, workspace)),
        ("weights", check_weights),
        ("clock", partial(check_clocks, workspace, client)),
        ("Prefect", partial(check_server, workspace, client)),
    ]


def check_environment(workspace: Workspace) -> Iterator[Finding]:
    """Whether the environment in .venv is for the GPU, if there is one, and TensorFlow can use it."""
    from tasks.vgg.hardware import has_gpu

    mark = workspace.clone / ".venv/ready"
    flavour = mark.read_text(encoding="utf-8").strip() if mark.exists() else ""
    if not flavour:
        yield Finding(f"{workspace.clone}/.venv is not complete.", "make setup")
    elif flavour == "cpu" and has_gpu():
        yield Finding("There is an NVIDIA GPU, but the environment is for the CPU.", "make setup FLAVOUR=gpu")
    elif has_gpu() and (reason := _why_unused()):
        again = "make clean && make setup FLAVOUR=gpu, and update NVIDIA's driver if that doesn't help"
        yield Finding(f"There is an NVIDIA GPU, but TensorFlow can't use it. {reason}", again)
    else:
        yield Finding(f"Python {platform.python_version()}, for the {flavour.upper()}")


def _why_unused() -> str:
    """What TensorFlow says, in a process of its own, if it can't use the GPU; else nothing."""
    chatty = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_MAX_VLOG_LEVEL": "1"}
    command = [sys.executable, "-c", _ASK_TENSORFLOW]
    asked = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, **chatty})
    if asked.returncode == 0 and asked.stdout.strip() != "0":
        return ""
    reasons = dict.fromkeys(_REASON.findall(asked.stderr))
    return f"It says: {'; '.join(reasons)}." if reasons else "It doesn't say why."


def check_weights() -> Iterator[Finding]:
    """Whether the weights of VGG16 are here, and are the published ones."""
    from tasks.vgg.weights import are_here, load_weights

    if not are_here():
        yield Finding("The VGG16 weights are not on this machine; a run would download them.", "make setup")
        return
    load_weights()
    yield Finding("the VGG16 weights are the published ones")


if __name__ == "__main__":
    raise SystemExit(main())
