"""What a run costs besides the network: each phase of each case, in seconds and in multiples of the network's own time.

    python -m benchmarks.overhead [--data FOLDER] [--set features.precision=float32] [--cases seed,all] [--repeat 1]
                                  [--environment] [--deployed]

The network's own time is measured in the same run, after each case that computed features: a warm process computes
images that are in memory, by the engines that `features` used. FOLDER holds train/<class>/* and val/<class>/*; without
it the images are some of the built-in digits. Python's bytecode is compiled before.

Measured are `make run` with nothing there, and the cases: `unchanged` (the same command again), `seed` (another
`train.seed`), `repro` (`dvc repro`, nothing changed), `all` (`make run STRATEGY=all`, nothing there). Each is run cold,
without the clone's `.rootstock` (what earlier runs have kept: decisions, exports, Prefect's database), and warm.
With `--environment` also `make run` in a new clone of the last commit, environment included; with `--deployed` also
runs of a deployment with nothing changed, from due to done.

The phases: `start`, from the command to the first stage's work; each stage's own seconds, as in its costs; `between`,
what lies between the work of two stages (processes, imports, DVC, Prefect); `end`, from the last stage's work to the
prompt. `CPU` is that of all processes, which other programs disturb less than the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.workspaces import PROJECT, make_workspace, run, write_digits
from tasks.markdown_tables import markdown_table
from tasks.params import change_settings, parse_changes

STAGES = ("ingest", "prepare", "features", "train", "evaluate", "export")
MAKE_RUN = "make --old-file=.venv/ready run"
CASES = {
    "unchanged": MAKE_RUN,
    "seed": f"{MAKE_RUN} SET=train.seed={{number}}",
    "repro": "dvc repro",
    "all": f"{MAKE_RUN} STRATEGY=all",
}
OUTPUTS = ("data", "models", "reports", "dvc.lock", ".dvc/cache", ".dvc/tmp")
ENVIRONMENT = ".venv/ready"
DEPLOYED_RUNS = 3
PASSED = re.compile(r"evaluate: ([0-9]+)/\1 images[^,]*, ([0-9.]+) images")


@dataclass
class Timeline:
    """One command: when it ended, and which stages worked from when to when; seconds since its start."""

    wall: float = 0.0
    cpu: float = 0.0
    environment: float = 0.0
    evaluated: float = 0.0  # seconds in which `evaluate` passed images through networks
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    costs: list[dict] = field(default_factory=list)

    def phases(self) -> dict[str, float]:
        if not self.stages:
            return {"environment": self.environment, "start": self.wall - self.environment}
        spans = sorted((begin, end) for _, begin, end in self.stages)
        gaps, last = 0.0, spans[0][0]
        for begin, end in spans:
            gaps, last = gaps + max(0.0, begin - last), max(last, end)
        own = {name: sum(end - begin for stage, begin, end in self.stages if stage == name) for name in STAGES}
        start = spans[0][0] - self.environment
        return {"environment": self.environment, "start": start, **own, "between": gaps, "end": self.wall - last}

    def besides_training_and_network(self) -> float:
        """The rest of the wall clock without the stages `train`, and without what others spent in the network."""
        training = sum(end - begin for stage, begin, end in self.stages if stage == "train")
        rates = [one for one in self.costs if one["stage"] == "features" and one["extracted"]]
        extracted = sum(one["extracted"] / one["images_per_s"] for one in rates)
        return self.wall - training - extracted - self.evaluated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="default: 200 of the built-in digits")
    parser.add_argument("--set", action="append", default=[], help="settings of all runs, as block.key=value")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--environment", action="store_true")
    parser.add_argument("--deployed", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        temporary = Path(folder)
        data = (options.data or write_digits(temporary / "digits")).resolve()
        settings = parse_changes([*options.set, f"source.uri={json.dumps(str(data))}"])
        rows, network = [], []
        for number in range(options.repeat):
            measure(temporary / str(number), settings, options.cases.split(","), rows, network)
        if options.environment:
            rows.append(("make run, new clone", first_run(temporary / "first")))
        show(rows, network)
        if options.deployed:
            deployed(temporary / "deployed", settings)


def measure(folder: Path, settings: dict[str, Any], cases: list[str], rows: list, network: list[dict]) -> None:
    """Run the cases, each cold and warm, in one workspace."""
    workspace = make_workspace(folder)
    shutil.copy(PROJECT / "Makefile", workspace)
    (workspace / ".venv").symlink_to(sys.prefix)
    change_settings(workspace, settings)
    run(workspace, "compileall", "-q", "flows", "tasks")
    for case in ("new", *(name for name in CASES if name in cases)):
        for is_cold in (True, False):
            is_new = case in ("new", "all")
            remove(workspace, *(OUTPUTS if is_new else ()), *([".rootstock"] if is_cold else ()))
            words = shlex.split(CASES.get(case, MAKE_RUN).format(number=1 + is_cold))
            name = f"{shlex.join(words).replace(' --old-file=.venv/ready', '')}, {'cold' if is_cold else 'warm'}"
            rows.append((name if is_new else f"{name}, {case}", time_command(words, workspace)))
            print(f"{rows[-1][0]}: {rows[-1][1].wall:.1f} s", file=sys.stderr, flush=True)
            if is_new:
                network.append(json.loads(run(PROJECT, "benchmarks.network", str(workspace), "--used")))


def remove(workspace: Path, *names: str) -> None:
    for path in (workspace / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def time_command(command: list[str], workspace: Path, **environment: str) -> Timeline:
    """Run a command in a workspace, and note when each stage recorded its costs."""
    timeline, used = Timeline(), cpu_seconds()
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    start = time.monotonic()
    with watched(workspace, timeline, start), (workspace / ".output").open("wb") as output:
        variables = {**os.environ, "PATH": paths, "DO_NOT_TRACK": "1", **environment}
        ended = subprocess.run(command, cwd=workspace, env=variables, stdout=output, stderr=output, check=False)
        timeline.wall = time.monotonic() - start
    timeline.cpu = cpu_seconds() - used
    said = (workspace / ".output").read_text()
    if ended.returncode:
        raise SystemExit(said)
    timeline.evaluated = sum(int(done) / float(rate) for done, rate in PASSED.findall(said))
    return timeline


@contextmanager
def watched(workspace: Path, timeline: Timeline, start: float) -> Iterator[None]:
    """Add to the timeline what happens meanwhile."""
    ended, history = threading.Event(), workspace / ".rootstock/costs/history.jsonl"
    begun = len(read_lines(history))

    def look() -> None:
        if not timeline.environment and (workspace / ENVIRONMENT).exists():
            timeline.environment = time.monotonic() - start
        for line in read_lines(history)[begun + len(timeline.stages) :]:
            costs, now = json.loads(line), time.monotonic() - start
            timeline.costs.append(costs)
            timeline.stages.append((costs["stage"].partition("@")[0], now - costs["seconds"], now))

    def watch() -> None:
        while not ended.wait(0.01):
            look()

    if (workspace / ENVIRONMENT).exists():
        timeline.environment = 1e-9  # it is no part of the case
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


def read_lines(file: Path) -> list[str]:
    text = file.read_text() if file.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def first_run(folder: Path) -> Timeline:
    """`make run` in a new clone of the last commit, as in the README."""
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(folder)], check=True)
    return time_command(["make", "run"], folder, PATH=os.environ["PATH"])


def show(rows: list[tuple[str, Timeline]], network: list[dict]) -> None:
    """Print the table in seconds, and in multiples of the network's own time; CPU in multiples of its CPU time."""
    wall, cpu = (sum(one[name] for one in network) / len(network) for name in ("seconds", "cpu_seconds"))
    each = ", ".join(f"{one['seconds']:.1f}" for one in network)
    print(
        f"\nThe network's own time: {wall:.1f} s, the mean of {each}; {cpu:.1f} CPU seconds. {network[0]}", flush=True
    )
    heads = ["environment", "start", *STAGES, "between", "end", "wall", "CPU"]
    values = [(name, {**line.phases(), "wall": line.wall, "CPU": line.cpu}) for name, line in rows]
    heads = [head for head in heads if any(found.get(head, 0) > 0.005 for _, found in values)]
    for unit, digits in (("seconds", 1), ("x network", 2)):
        divisors = dict.fromkeys(heads, 1.0) if unit == "seconds" else {**dict.fromkeys(heads, wall), "CPU": cpu}
        cells = [
            [name, *(f"{found.get(head, 0) / divisors[head]:.{digits}f}" for head in heads)] for name, found in values
        ]
        print(f"\n{markdown_table([unit, *heads], cells, right=heads)}", flush=True)
    for name, line in rows:
        if "all" in name:
            print(f"\n{name}: neither training nor network {line.besides_training_and_network():.1f} s", flush=True)


def deployed(folder: Path, settings: dict[str, Any]) -> None:
    """Runs of a deployment with nothing changed: seconds from due to done, and in each state."""
    from tests.flows.conftest import serve
    from tests.flows.project import Project, write_deployments

    workspace = make_workspace(folder / "clone")
    write_deployments(workspace)
    change_settings(workspace, settings)
    run(workspace, "compileall", "-q", "flows", "tasks")
    project = Project(workspace)
    del project.environment["PREFECT_WORKER_QUERY_SECONDS"]  # as `make ui` sets it
    project.git("add", "--force", "prefect.yaml", "params.yaml")
    project.git("commit", "--quiet", "--message=Deploy")
    rows = []
    with serve(project, folder) as (_, api):
        for number in range(1 + DEPLOYED_RUNS):
            run_id = api.start_run()
            api.finish(run_id, patience_s=3600)
            due = datetime.fromisoformat(api.get(f"/flow_runs/{run_id}")["expected_start_time"])
            states = [(one["name"], datetime.fromisoformat(one["timestamp"])) for one in api.states(run_id)]
            times = {name: (moment - due).total_seconds() for name, moment in sorted(states, key=lambda one: one[1])}
            told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items())
            rows.append(["all new" if not number else "unchanged", told, f"{api.seconds(run_id):.1f}"])
    print(f"\n{markdown_table(['deployed run', 'seconds after due', 'done'], rows, right=['done'])}")


if __name__ == "__main__":
    main()
