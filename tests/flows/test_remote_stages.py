"""Stages on other machines: clones without a shared disk, an S3 server for all, workers that die and freeze."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.flows.project import Api, Project, copy_project
from tests.flows.site import Site, start_worker
from tests.servers.fault_proxy import FaultProxy
from tests.servers.seaweed import ACCESS_KEY, REGION, SECRET_KEY, Seaweed
from tests.waiting import is_running, wait_until

pytestmark = pytest.mark.slow
TRAIN, REPLACE = "train@feature_extraction", "train@head_replacement"
ELSEWHERE = {"work_pools": {"features": "gpu", "train": "gpu"}}
SOON_LOST = {**ELSEWHERE, "lost_after_s": 15}


class Machine(Project):
    """A GPU machine: a clone of the project, with its own cache, its own way to the S3 server, and a worker."""

    def __init__(self, folder: Path, coordinator: Project, api: Api, s3: FaultProxy) -> None:
        super().__init__(folder)
        coordinator.git("clone", "-q", str(coordinator.folder), str(folder))
        self.s3 = s3
        self.environment |= {
            **_credentials(s3),
            **api.client,
            "PREFECT_HOME": str(folder / ".prefect"),
        }
        self._worker: subprocess.Popen[bytes] | None = None

    def family(self) -> list[psutil.Process]:
        """The worker and all that descends from it."""
        if self._worker is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(self._worker.pid)
            if worker.status() != psutil.STATUS_ZOMBIE:
                return [worker, *worker.children(recursive=True)]
        return []

    def up(self) -> None:
        """Behave well, with nothing noted; start the worker if it doesn't run."""
        for order in (self.folder / "behave").glob("*"):
            order.unlink()
        (self.folder / "processes.txt").unlink(missing_ok=True)
        self.ran()
        self.s3.clear()
        if not self.family():
            self.down()
            self._worker = start_worker(self, "gpu", self.folder.with_suffix(".log"))

    def send(self, number: signal.Signals) -> None:
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def down(self) -> None:
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        if self._worker is not None:
            self._worker.wait(30)


class Estate:
    """A site whose DVC remote is an S3 server, two GPU machines, and a machine that does all alone."""

    def __init__(self, site: Site, s3: FaultProxy, machines: list[Machine], store: Seaweed, single: Project) -> None:
        self.site, self.s3, self.machines, self._store, self._single = site, s3, machines, store, single
        self.project, self.api = site.project, site.api

    def attempts(self, run_id: str, stage: str = TRAIN) -> list[dict[str, Any]]:
        """The runs of `stage/gpu` for a stage of a run, the first one first."""
        wanted = {"name": {"like_": f"{stage} for {self.api.get(f'/flow_runs/{run_id}')['name']}, attempt"}}
        found: list[dict[str, Any]] = self.api.post("/flow_runs/filter", flow_runs=wanted)
        return sorted(found, key=lambda run: str(run["name"]))

    def lock_of_a_single_machine(self) -> str:
        """dvc.lock of a `dvc repro` on one machine, with the params.yaml that the branch holds."""
        (self._single.folder / "params.yaml").write_text(self.project.git("show", "runs/manual:params.yaml") + "\n")
        shutil.rmtree(self._single.folder / "out/trained", ignore_errors=True)  # DVC leaves what a strategy made
        self._single.dvc("repro", "-q")
        return self._single.lock()

    def start_and_wait(self, seed: int) -> tuple[str, Machine, Machine]:
        """A run whose training has begun on one machine and waits there; gives that machine and the other one."""
        for machine in self.machines:
            machine.behave(TRAIN, "wait")
        run_id = self.api.start_run(run=SOON_LOST, train={"seed": seed})
        wait_until(lambda: any(one.waits(TRAIN) for one in self.machines), "the training to begin", 600)
        busy = next(one for one in self.machines if one.waits(TRAIN))
        other = next(one for one in self.machines if one is not busy)
        other.behave(TRAIN, "")
        return run_id, busy, other

    def sizes(self, stage: str) -> dict[str, int]:
        """Path -> bytes of what a stage reads and writes."""
        entry = yaml.safe_load(self.project.lock("runs/manual"))["stages"][stage]
        return {one["path"]: int(one["size"]) for one in [*entry["deps"], *entry.get("outs", [])]}

    def stored(self) -> int:
        """Bytes in the S3 server."""
        with contextlib.closing(self._store.client()) as client:
            names = [one["Name"] for one in client.list_buckets()["Buckets"]]
            pages = [page for name in names for page in client.get_paginator("list_objects_v2").paginate(Bucket=name)]
            return sum(one["Size"] for page in pages for one in page.get("Contents", []))


def _credentials(proxy: FaultProxy) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": proxy.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def estate(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    folder = tmp_path_factory.mktemp("estate")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Seaweed(folder / "s3"))
        ways = [stack.enter_context(FaultProxy(store.port)) for _ in range(3)]
        with contextlib.closing(store.client()) as client:
            bucket = store.new_bucket(client)
        project = copy_project(template, folder / "coordinator")
        project.dvc("remote", "add", "-q", "-d", "store", f"s3://{bucket}/dvc")
        project.git("commit", "-qam", "Use the store")
        project.environment |= _credentials(ways[0])
        site = Site(folder, project)
        stack.callback(site.close)
        site.open()
        machines = [Machine(folder / f"gpu-{number}", project, site.api, ways[number]) for number in (1, 2)]
        for machine in machines:
            stack.callback(machine.down)
        yield Estate(site, ways[0], machines, store, copy_project(template, folder / "single"))
    for one in (project, *machines):
        assert one.left_over() == []


@pytest.fixture
def one(estate: Estate) -> Machine:
    """The only machine with a worker."""
    estate.machines[1].down()
    estate.project.ran()
    estate.machines[0].up()
    return estate.machines[0]


@pytest.fixture
def both(estate: Estate) -> list[Machine]:
    estate.project.ran()
    for machine in estate.machines:
        machine.up()
    return estate.machines


def test_features_and_train_on_a_worker_without_shared_disk_give_the_lock_of_a_single_machine(
    estate: Estate, one: Machine
) -> None:
    site, project = estate.site, estate.project
    estate.api.finish(estate.api.start_run(run=ELSEWHERE))
    assert project.ran() == ["ingest", "prepare", "evaluate", "export"]
    assert one.ran() == ["features", TRAIN]
    assert f"| {TRAIN} | " in estate.api.artifact("costs")["data"]
    assert project.lock("runs/manual") == estate.lock_of_a_single_machine()
    raw, prepared = (estate.sizes("prepare")[path] for path in ("out/ingest", "out/prepare"))
    features = estate.sizes("features")["out/features"]
    block5, trained = (estate.sizes("evaluate")[path] for path in ("out/features/block5_pool", "out/trained"))
    down, back, stored = one.s3.bytes_sent("GET"), estate.s3.bytes_sent("GET"), estate.stored()
    print(
        f"\nall new: {down:,} bytes to the worker, which lacks what is prepared ({prepared:,}), but neither reads raw "
        f"({raw:,}) nor lacks features ({features:,}), which it made; {stored:,} bytes in the store: what is prepared, "
        f"features, what is trained ({trained:,}); {back:,} bytes back, of which evaluate reads {block5 + trained:,}"
    )
    rest = 10_000  # listings, and answers that hold no file
    assert prepared <= down < prepared + rest
    assert prepared + features + trained <= stored < prepared + features + trained + rest
    assert block5 + trained <= back < block5 + trained + rest
    assert len(one.git("worktree", "list").splitlines()) == 1

    one.s3.clear()
    run_id = estate.api.start_run(run=ELSEWHERE, features={"batch_size": 16})
    estate.api.finish(run_id)
    assert one.ran() == ["features"]  # the same bytes again, so nothing after it
    assert project.ran() == []
    estate.api.wait_for_log(estate.attempts(run_id, "features")[-1]["id"], "features: has its output of the last time")
    print(f"features again: {one.s3.bytes_sent('GET'):,} bytes to the worker, which has kept what it reads")
    assert one.s3.bytes_sent("GET") < 10_000
    site.assert_nothing_to_do()


def test_strategies_train_side_by_side_and_a_new_machine_is_brought_what_it_lacks(estate: Estate) -> None:
    project, (old, new), names = estate.project, estate.machines, (TRAIN, REPLACE)
    before = estate.sizes("features")["out/features"]
    old.down()
    new.up()
    for name in names:
        new.behave(name, "wait")
    changes = {"train": {"seed": 1}, "strategies": ["feature_extraction", "head_replacement"]}
    run_id = estate.api.start_run(run=ELSEWHERE, **changes)
    wait_until(lambda: any(map(new.waits, names)), "the training to begin", 600)
    old.up()
    for name in names:
        old.behave(name, "wait")
    wait_until(lambda: any(map(old.waits, names)), "the other training to begin beside it", 600)
    for machine in (old, new):
        for name in names:
            machine.behave(name, "")
    estate.api.finish(run_id)
    (first,) = set(new.ran()) & set(names)
    (second,) = set(names) - {first}
    assert old.ran() == [second]
    assert project.lock("runs/manual") == estate.lock_of_a_single_machine()

    (attempt,) = estate.attempts(run_id, "features")
    estate.api.wait_for_log(attempt["id"], "features: has its output of the last time")
    down, prepared = new.s3.bytes_sent("GET"), estate.sizes("prepare")["out/prepare"]
    print(f"\nnew machine: {down:,} bytes (prepared {prepared:,}, features of the last time {before:,})")
    assert prepared + before <= down < prepared + before + 10_000
    estate.site.assert_nothing_to_do()


def test_killed_worker_is_noticed_its_slot_freed_and_the_stage_done_by_another(
    estate: Estate, both: list[Machine]
) -> None:
    del both
    estate.api.patch("/work_pools/gpu", concurrency_limit=1)
    try:
        run_id, busy, other = estate.start_and_wait(11)
        processes = busy.family()
        busy.send(signal.SIGKILL)
        estate.api.finish(run_id)
    finally:
        estate.api.patch("/work_pools/gpu", concurrency_limit=None)
    estate.api.wait_for_log(run_id, "its worker is lost: it sent no heartbeat for 15 s (run.lost_after_s)")
    assert TRAIN in other.ran()
    assert [run["state"]["type"] for run in estate.attempts(run_id)] == ["CRASHED", "COMPLETED"]
    wait_until(lambda: not any(is_running(one.pid) for one in processes), "the machine's processes to end")
    assert estate.project.lock("runs/manual") == estate.lock_of_a_single_machine()
    estate.site.assert_nothing_to_do()


def test_frozen_worker_that_wakes_after_the_retry_is_refused(estate: Estate, both: list[Machine]) -> None:
    del both
    run_id, busy, _ = estate.start_and_wait(12)
    busy.send(signal.SIGSTOP)
    estate.api.finish(run_id)
    commit = estate.project.git("rev-parse", "runs/manual")
    zombie, retry = estate.attempts(run_id)
    assert [zombie["state"]["type"], retry["state"]["type"]] == ["CRASHED", "COMPLETED"]

    busy.behave(TRAIN, "")  # its stage goes on, and would end well
    busy.send(signal.SIGCONT)
    wait_until(lambda: len(busy.family()) == 1, "the woken run to end")
    estate.api.wait_for_log(zombie["id"], "its result is refused")
    assert estate.api.state(zombie["id"]) in ("CRASHED", "FAILED")
    assert estate.project.git("rev-parse", "runs/manual") == commit
    assert estate.project.lock("runs/manual") == estate.lock_of_a_single_machine()
    estate.site.assert_nothing_to_do()


def test_server_that_is_killed_and_started_again_costs_a_stage_elsewhere_nothing(estate: Estate, one: Machine) -> None:
    one.behave(TRAIN, "wait")
    run_id = estate.api.start_run(run=ELSEWHERE, train={"seed": 13})
    one.wait_for(TRAIN)
    estate.site.restart_server()
    one.behave(TRAIN, "")
    estate.api.finish(run_id)
    assert [run["state"]["type"] for run in estate.attempts(run_id)] == ["COMPLETED"]
    estate.site.assert_nothing_to_do()


def test_cancelled_pipeline_cancels_its_stage_elsewhere_which_resumes_the_next_time(
    estate: Estate, one: Machine
) -> None:
    one.behave(TRAIN, "hang")
    run_id = estate.api.start_run(run=ELSEWHERE, train={"seed": 14})
    processes = one.processes()
    estate.api.post(f"/flow_runs/{run_id}/set_state", state={"type": "CANCELLING"})
    wait_until(lambda: not any(is_running(number) for number in processes), "the stage's processes to end")
    estate.api.finish(run_id, "CANCELLED")
    (attempt,) = estate.attempts(run_id)
    estate.api.finish(attempt["id"], "CANCELLED")

    one.behave(TRAIN, "")
    run_id = estate.api.start_run(run=ELSEWHERE, train={"seed": 14})
    estate.api.finish(run_id)
    estate.api.wait_for_log(estate.attempts(run_id)[0]["id"], f"{TRAIN}: resumes after epoch 1")
    estate.site.assert_nothing_to_do()


def test_user_error_elsewhere_is_reported_in_its_words_not_tried_again_and_costs_others_nothing(
    estate: Estate, both: list[Machine]
) -> None:
    for machine in both:
        machine.behave(TRAIN, "wait")
    chosen = {"train": {"seed": 15}, "strategies": ["feature_extraction", "head_replacement"]}
    run_id = estate.api.start_run(run=ELSEWHERE, **chosen)
    wait_until(lambda: any(estate.api.ended(one["id"]) for one in estate.attempts(run_id, REPLACE)), REPLACE, 600)
    for machine in both:
        machine.behave(TRAIN, "user error")
    estate.api.finish(run_id, "FAILED")
    estate.api.wait_for_log(run_id, f"SourceError: {TRAIN} has no images.\n  Give it some.")
    assert len(estate.attempts(run_id)) == 1

    for machine in both:
        machine.behave(TRAIN, "")
        machine.ran()
    estate.api.finish(estate.api.start_run(run=ELSEWHERE, **chosen))
    assert [stage for machine in both for stage in machine.ran()] == [TRAIN]
    estate.site.assert_nothing_to_do()


def test_pool_without_deployment_is_reported_in_words_before_any_stage(estate: Estate) -> None:
    estate.project.ran()
    run_id = estate.api.start_run(run={"work_pools": {"train": "tpu"}}, ingest={"pack_size_mb": 65})
    estate.api.finish(run_id, "FAILED")
    assert estate.project.ran() == []
    estate.api.wait_for_log(run_id, "no deployment stage/tpu. Add it to prefect.yaml")
