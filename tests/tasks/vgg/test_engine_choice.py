"""The choice of the engine: measured only if there is a choice, once for a workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.settings import Features, Settings
from tasks.vgg import engine_choice
from tasks.vgg.boundaries import Decision, candidates, share_below
from tasks.vgg.engine_choice import choose_engine, choose_engines, decide_boundary, measure_rates
from tasks.vgg.engines import Engine
from tasks.workspace import Workspace
from tests.conftest import PARAMS

Choose = Callable[..., Engine]
Machine = Callable[..., list[Engine]]

NCNN = Engine("ncnn", "float32")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Sets what the machine has; gives the list of the engines that were probed."""

    def build(
        gpu: bool = False, flags: tuple[str, ...] = (), tensorflow_speed: float = 1.0, speed: float = 1.0
    ) -> list[Engine]:
        probed: list[Engine] = []

        def probe(engine: Engine, *_: Any) -> float:
            probed.append(engine)
            return tensorflow_speed if engine.name == "tensorflow" else speed

        monkeypatch.setattr(engine_choice, "has_gpu", lambda: gpu)
        monkeypatch.setattr(engine_choice, "cpu_has", lambda *wanted: any(flag in flags for flag in wanted))
        monkeypatch.setattr(engine_choice, "measure_rate", probe)
        monkeypatch.setattr(engine_choice, "measure_views", lambda _: 1e9)
        return probed

    return build


@pytest.fixture
def choose(workspace: Path) -> Choose:
    values = yaml.safe_load(PARAMS.read_text())["features"]

    def choose_one(engine: str = "auto", precision: str = "auto") -> Engine:
        wanted = Features(**{**values, "engine": engine, "precision": precision, "batch_size": 2})
        return choose_engine(wanted, {}, Workspace.at(workspace))

    return choose_one


def test_plain_cpu_takes_ncnn_without_a_probe(machine: Machine, choose: Choose) -> None:
    probed = machine()
    assert choose() == NCNN
    assert probed == []


@pytest.mark.parametrize(("speed", "chosen"), [(1.19, NCNN), (1.21, Engine("tensorflow", "bfloat16")), (0.1, NCNN)])
@pytest.mark.parametrize("has", [{"gpu": True}, {"flags": ("amx_bf16",)}])
def test_probe_decides_on_machines_with_matrix_units_and_not_by_chance(
    machine: Machine, choose: Choose, has: dict[str, Any], speed: float, chosen: Engine
) -> None:
    probed = machine(**has, tensorflow_speed=speed)
    assert choose() == chosen
    assert probed == [NCNN, Engine("tensorflow", "bfloat16")]


@pytest.mark.parametrize("has", [{}, {"gpu": True}, {"flags": ("amx_bf16", "avx512_bf16")}])
@pytest.mark.parametrize(
    ("engine", "precision", "chosen"),
    [
        ("ncnn", "auto", NCNN),
        ("ncnn", "float32", NCNN),
        ("tensorflow", "float32", Engine("tensorflow", "float32")),
        ("tensorflow", "bfloat16", Engine("tensorflow", "bfloat16")),
        ("auto", "bfloat16", Engine("tensorflow", "bfloat16")),
        ("ncnn", "int8", NCNN),
    ],
)
def test_what_is_asked_for_is_taken(
    machine: Machine,
    choose: Choose,
    has: dict[str, Any],
    engine: str,
    precision: str,
    chosen: Engine,
) -> None:
    probed = machine(**has)
    assert choose(engine, precision) == chosen
    assert probed == []


def test_tensorflow_takes_bfloat16_only_where_it_is_fast(machine: Machine, choose: Choose) -> None:
    machine()
    assert choose("tensorflow") == Engine("tensorflow", "float32")
    machine(flags=("avx512_bf16",))
    assert choose("tensorflow") == Engine("tensorflow", "bfloat16")


@pytest.mark.parametrize("has", [{"gpu": True}, {"flags": ("amx_bf16",)}])
def test_busy_night_does_not_change_the_engine(machine: Machine, choose: Choose, has: dict[str, Any]) -> None:
    machine(**has, tensorflow_speed=2.0)
    chosen = choose()
    probed = machine(**has, tensorflow_speed=0.5)
    assert choose() == chosen
    assert probed == []


def test_another_kind_of_machine_on_the_same_clone_is_measured_itself(machine: Machine, choose: Choose) -> None:
    machine(gpu=True, tensorflow_speed=2.0)
    assert choose() == Engine("tensorflow", "bfloat16")
    machine(flags=("amx_bf16",), tensorflow_speed=0.5)
    assert choose() == NCNN
    machine(gpu=True, tensorflow_speed=0.5)
    assert choose() == Engine("tensorflow", "bfloat16")


@pytest.mark.parametrize(
    ("has", "wanted", "evaluated", "training"),
    [
        ({"gpu": True}, "auto", "tensorflow in float32", "tensorflow in bfloat16"),
        ({"flags": ("amx_bf16",)}, "auto", "ncnn in float32", "tensorflow in bfloat16"),
        ({}, "tensorflow", "tensorflow in float32", "tensorflow in float32"),
        ({"flags": ("avx512_bf16",)}, "tensorflow", "tensorflow in float32", "tensorflow in bfloat16"),
        ({}, "auto", "ncnn in float32", "ncnn in float32"),
    ],
)
def test_what_is_reported_passes_the_network_in_the_precision_of_the_exported_model(
    machine: Machine, workspace: Path, has: dict[str, Any], wanted: str, evaluated: str, training: str
) -> None:
    machine(**has, tensorflow_speed=2.0)
    rules = Features(**{**yaml.safe_load(PARAMS.read_text())["features"], "engine": wanted})
    engines = choose_engines(rules, {}, Workspace.at(workspace), {}, [], extraction=None)  # type: ignore[arg-type]
    assert (str(engines.evaluated), str(engines.training)) == (evaluated, training)


def test_deployed_run_uses_what_the_clone_measured(machine: Machine, choose: Choose, workspace: Path) -> None:
    machine(gpu=True, tensorflow_speed=2.0)
    chosen = choose()
    own = Workspace.at(workspace / ".rootstock/runs/nightly").belong_to(workspace)
    probed = machine(gpu=True, tensorflow_speed=0.5)
    assert choose_engine(Features(**yaml.safe_load(PARAMS.read_text())["features"]), {}, own) == chosen
    assert probed == []


def test_busy_disk_does_not_change_the_rates(
    machine: Machine, workspace: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Settings]
) -> None:
    machine()
    settings = change()
    quiet = measure_rates(NCNN, {}, settings, Workspace.at(workspace))
    monkeypatch.setattr(engine_choice, "_disk_rate", lambda _: 1.0)
    assert measure_rates(NCNN, {}, settings, Workspace.at(workspace)) == quiet


def decided(
    workspace: Path, change: Callable[..., Settings], seconds: float, *changes: str, extracting: Engine = NCNN
) -> Decision:
    """Whether fine-tuning starts from block2_pool if the outputs below it cost ncnn so many seconds an epoch."""
    settings = change("strategies=[fine_tuning]", "features.engine=ncnn", *changes)
    [((strategy, boundary), phases)] = candidates(settings).items()
    images = int(seconds * 15 / share_below(boundary))
    place = Workspace.at(workspace)
    return decide_boundary(settings, place, extracting, {}, strategy, boundary, phases, images, 0, 1e15)


def test_rate_of_training_is_measured_once_and_only_where_it_decides(
    machine: Machine, workspace: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorflow = Engine("tensorflow", "float32")
    probed = machine(speed=15.0, tensorflow_speed=5.0)
    monkeypatch.setattr(engine_choice, "_disk_rate", lambda _: 1e12)
    assert not decided(workspace, change, 2).kept
    assert probed == [NCNN], "a minute would be lost at most: not worth the start of TensorFlow"
    assert decided(workspace, change, 200, "train.modern.fine_tuning.epochs=30").kept
    assert not decided(workspace, change, 200, "train.modern.fine_tuning.epochs=3", "augmentation.count=30").kept
    assert probed == [NCNN], "it pays, or doesn't, however slow training is"
    assert decided(workspace, change, 200, "augmentation.count=4").kept
    assert probed == [NCNN, tensorflow]
    machine(speed=15.0, tensorflow_speed=50.0)
    assert decided(workspace, change, 200, "augmentation.count=4").kept
    assert probed == [NCNN, tensorflow], "a busy hour doesn't change the decision"


def test_rate_of_training_is_that_of_the_features_where_one_engine_computes_both(
    machine: Machine, workspace: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine("tensorflow", "bfloat16")
    probed = machine(flags=("amx_bf16",), tensorflow_speed=15.0)
    monkeypatch.setattr(engine_choice, "_disk_rate", lambda _: 1e12)
    assert not decided(workspace, change, 200, extracting=engine).kept
    assert probed == [engine]


def test_gpu_that_trains_is_measured_however_fast_it_may_be(
    machine: Machine, workspace: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = machine(gpu=True, speed=15.0, tensorflow_speed=1000.0)
    monkeypatch.setattr(engine_choice, "_disk_rate", lambda _: 1e12)
    assert not decided(workspace, change, 200, "train.modern.fine_tuning.epochs=30").kept
    assert probed == [NCNN, Engine("tensorflow", "bfloat16")]
