"""The boundary cache: what is cached, for which strategy, and why."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from tasks.images.manifest import Example
from tasks.settings import Settings
from tasks.vgg.boundaries import Decision, Rates, candidates, decide, share_below, wanted_rows
from tasks.vgg.strategies import plan_phases
from tasks.vgg.strategies.base import BLOCK_NAMES

NO_TIME = 1e12
RATES = Rates(14.0, 500e6, 14.0, NO_TIME)
ALL = "strategies=[feature_extraction, head_replacement, fine_tuning, progressive]"


def examples() -> list[Example]:
    return [
        Example(hashlib.sha256(split.encode()).hexdigest(), f"{split}.png", "ant", split, 9, 9, "PNG", "")
        for split in ("train", "validation", "test")
    ]


def test_shares_are_those_of_vgg16() -> None:
    assert share_below("block5_pool") == 1
    assert share_below("block4_pool") == pytest.approx(0.91, abs=0.01)
    assert share_below("block3_pool") == pytest.approx(0.61, abs=0.01)


def test_strategies_start_from_the_boundary_below_what_they_unfreeze(change: Callable[..., Settings]) -> None:
    asked = candidates(change(ALL))
    assert set(asked) == {
        ("head_replacement", "block5_pool"),
        ("fine_tuning", "block2_pool"),
        ("progressive", "block4_pool"),
        ("progressive", "block3_pool"),
    }
    tutorial = candidates(change("train.recipe=tutorial"))
    assert {strategy for strategy, _ in tutorial} == {"feature_extraction", "head_replacement", "progressive"}
    assert {boundary for _, boundary in tutorial} == {"block5_pool"}


def test_cache_pays_when_epochs_read_it_more_often_than_it_has_views(change: Callable[..., Settings]) -> None:
    [phase, *_] = candidates(change(ALL, "augmentation.count=4"))["progressive", "block4_pool"]
    assert decide("progressive", "block4_pool", [phase], 1000, 200, RATES, 1e12, "auto").kept
    [once, *_] = candidates(change("train.modern.progressive.epochs=1"))["progressive", "block4_pool"]
    decision = decide("progressive", "block4_pool", [once], 1000, 200, RATES, 1e12, "auto")
    assert not decision.kept
    assert "in 1 epochs" in decision.reason


def test_folds_read_the_cache_so_often_that_it_pays_sooner(change: Callable[..., Settings]) -> None:
    [once, *_] = candidates(change(ALL, "train.modern.progressive.epochs=1", "augmentation.count=4"))[
        "progressive", "block4_pool"
    ]
    kept = [decide("progressive", "block4_pool", [once], 1000, 200, RATES, 1e12, "auto", n).kept for n in (1, 10)]
    assert kept == [False, True]


def test_cache_does_not_pay_on_a_disk_slower_than_the_network(change: Callable[..., Settings]) -> None:
    [phase, *_] = candidates(change(ALL))["progressive", "block4_pool"]
    gpu = Rates(5000.0, 100e6, 5000.0, NO_TIME)
    assert not decide("progressive", "block4_pool", [phase], 100_000, 9_000, gpu, 1e13, "auto").kept


def test_cache_saves_the_time_of_the_engine_that_trains(change: Callable[..., Settings]) -> None:
    """On two AVX2 cores ncnn computes 13.8 images/s; TensorFlow, which trains, 4.6."""
    [phase] = candidates(change(ALL, "augmentation.count=4"))["fine_tuning", "block2_pool"]
    avx2, as_fast = Rates(13.8, 500e6, 4.6, NO_TIME), Rates(13.8, 500e6, 13.8, NO_TIME)
    decision = decide("fine_tuning", "block2_pool", [phase], 1000, 200, avx2, 1e12, "auto")
    assert decision.kept
    assert not decide("fine_tuning", "block2_pool", [phase], 1000, 200, as_fast, 1e12, "auto").kept
    below = share_below("block2_pool")
    assert (
        f"instead of {3 * 1200 * below / 4.6:.3g} s for the frozen blocks and augmented versions in 3 epochs"
        in decision.reason
    )


def test_cache_saves_making_augmented_versions_in_each_epoch(change: Callable[..., Settings]) -> None:
    """On a GPU the network costs next to nothing, but the cores make 700 views a second for each of two."""
    settings = change(ALL, "augmentation.count=4")
    phases = candidates(settings)["head_replacement", "block5_pool"]

    def decided(views_per_s: float) -> Decision:
        rates = Rates(3600.0, 500e6, 3600.0, views_per_s)
        return decide("head_replacement", "block5_pool", phases, 1000, 100, rates, 1e12, "auto")

    assert not decided(NO_TIME).kept
    slow = decided(1400.0)
    assert slow.kept
    epochs = sum(phase.epochs for phase in phases)
    made_s = 0.8 * epochs * 1000 / 1400 - 4 * 1000 / 1400  # each version once, instead of four of five in each epoch
    assert slow.saved_s - decided(NO_TIME).saved_s == pytest.approx(made_s)
    plain = candidates(change(ALL, "augmentation.count=0"))["head_replacement", "block5_pool"]
    found = [
        decide("head_replacement", "block5_pool", plain, 2000, 200, Rates(3600.0, 500e6, 3600.0, rate), 1e12, "auto")
        for rate in (1.0, NO_TIME)
    ]
    assert found[0] == found[1]
    assert "augmented" not in found[0].reason


def test_disk_and_wishes_are_heeded(change: Callable[..., Settings]) -> None:
    [phase, *_] = candidates(change(ALL))["progressive", "block4_pool"]

    def kept(room: float, wish: str) -> bool:
        return decide("progressive", "block4_pool", [phase], 1000, 200, RATES, room, wish).kept  # type: ignore[arg-type]

    assert not kept(1e9, "always")  # 1.02 GB are needed
    assert kept(1.1e9, "always")
    assert not kept(1e12, "never")


def test_rows_are_the_images_and_the_views_that_training_reads(change: Callable[..., Settings]) -> None:
    settings = change(ALL, "augmentation.count=2")
    train, validation, test = (example.key for example in examples())
    rows = wanted_rows(examples(), settings, [("progressive", "block4_pool"), ("head_replacement", "block5_pool")])
    assert rows == {
        "block5_pool": (train, validation, test),
        "for/progressive/block4_pool": (train, validation),
        "for/progressive/block4_pool.views": (f"{train}.1", f"{train}.2"),
        "for/head_replacement/block5_pool.views": (f"{train}.1", f"{train}.2"),
    }
    mirrored = wanted_rows(examples(), change("train.test_time_augmentation=true"), [])
    assert mirrored == {"block5_pool": (train, validation, f"{validation}.-1", test, f"{test}.-1")}


def test_modern_rates_fall_from_the_head_down(change: Callable[..., Settings]) -> None:
    settings = change("train.modern.fine_tuning.learning_rate_decay=0.5")
    [phase] = plan_phases("fine_tuning", settings.train, settings.augmentation)
    assert phase.unfrozen == ("block3", "block4", "block5")
    assert phase.boundary == "block2_pool"
    rates = [phase.learning_rates[name] for name in ("head", *reversed(phase.unfrozen))]
    assert rates == sorted(rates, reverse=True)
    assert phase.learning_rates["block4"] == pytest.approx(phase.learning_rates["block5"] / 2)
    everything = change("train.modern.fine_tuning.blocks=5")
    [phase] = plan_phases("fine_tuning", everything.train, everything.augmentation)
    assert (phase.unfrozen, phase.boundary) == (BLOCK_NAMES, None)


def test_tutorial_is_what_tutorials_print(change: Callable[..., Settings]) -> None:
    settings = change("train.recipe=tutorial")
    head, everything = plan_phases("progressive", settings.train, settings.augmentation)
    assert (head.unfrozen, head.learning_rates, head.epochs, head.views) == ((), {"head": 1e-3}, 10, 0)
    assert everything.unfrozen == BLOCK_NAMES
    assert set(everything.learning_rates.values()) == {1e-5}
    assert (head.schedule, head.clip_norm, head.patience) == ("constant", None, None)
