"""Slices of the images with more mistakes than the others: planted ones are found, and hardly any by chance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact, hypergeom, kstest

from tasks.images.manifest import Example
from tasks.reports import slices
from tasks.reports.slices import (
    Attribute,
    _chances_of_as_many,
    _control_false_discoveries,
    attributes_of,
    find_weak_slices,
)

RNG = np.random.default_rng(0)
ALONE = np.arange(300)
LIGHT = RNG.permutation(np.linspace(0.05, 0.95, 300))
OTHERS = [
    Attribute("contrast", RNG.random(300), "low contrast", "high contrast", "contrast"),
    Attribute("sharpness", RNG.random(300), "smooth", "busy", "sharpness"),
    Attribute("format", RNG.choice(["JPEG", "PNG", "WEBP"], 300)),
]
ATTRIBUTES = [Attribute("light", LIGHT, "dark", "bright", "brightness"), *OTHERS]


def planted() -> np.ndarray:
    """30 dark images of 300 with wrong labels, and 4 % mistakes elsewhere."""
    wrong = np.random.default_rng(1).random(300) < 0.04
    wrong[np.argsort(LIGHT)[:30]] = True
    return wrong


def test_planted_slice_is_found_with_its_numbers() -> None:
    wrong = planted()
    report = find_weak_slices(wrong, ATTRIBUTES, ALONE)
    assert report["tested"] > 12
    assert report["slices"][0]["attribute"] == "light"
    found = report["slices"][0]
    assert "dark" in found["words"]
    assert (found["n"], found["wrong"]) == (30, 30)
    inside = np.isin(np.arange(300), np.argsort(LIGHT)[:30])
    assert found["places"] == np.flatnonzero(inside & wrong).tolist()
    assert found["share_outside"] == pytest.approx(wrong[~inside].mean())
    assert found["p_value"] < 1e-9
    assert [one["attribute"] for one in report["slices"]] == ["light"]  # the darkest quarter isn't told again


def test_shuffled_mistakes_have_weak_slices_no_more_often_than_stated() -> None:
    """With nothing to be found, one of ten tables may show something; 6 or more of 20 have a probability of 1 %."""
    wrong, rng = planted(), np.random.default_rng(3)
    found = [bool(find_weak_slices(rng.permutation(wrong), ATTRIBUTES, ALONE)["slices"]) for _ in range(20)]
    assert sum(found) <= 5


def test_p_value_is_that_of_fishers_exact_test() -> None:
    inside = np.arange(40) < 12
    wrong = (np.arange(40) % 5 == 0) | (np.arange(40) < 4)
    table = [[(inside & wrong).sum(), (inside & ~wrong).sum()], [(~inside & wrong).sum(), (~inside & ~wrong).sum()]]
    (found,) = slices.p_values(inside[np.newaxis], wrong, np.arange(40))
    assert found == pytest.approx(fisher_exact(table, "greater").pvalue)


def test_p_values_of_groups_are_uniform_though_their_images_are_alike() -> None:
    """20 groups of 15, all of whose images are right or wrong, and in the slice or not."""
    rng, groups = np.random.default_rng(4), np.repeat(np.arange(20), 15)
    found, naive = [], []
    for _ in range(60):
        inside, wrong = (np.repeat(rng.permutation(20) < 8, 15) for _ in range(2))
        found += slices.p_values(inside[np.newaxis], wrong, groups).tolist()
        naive += slices.p_values(inside[np.newaxis], wrong, ALONE).tolist()
    assert np.mean(np.array(naive) < 0.05) > 0.15
    assert np.mean(np.array(found) <= 0.1) <= 0.2
    assert kstest(found, "uniform", alternative="greater").pvalue > 0.01  # never too small; ties make them larger


def test_groups_are_found_if_many_of_them_fail() -> None:
    groups = np.repeat(np.arange(60), 5)
    camera = np.repeat(np.where(np.arange(60) < 20, "old", "new"), 5)
    wrong = np.repeat(np.arange(60) % 60 < 12, 5)
    report = find_weak_slices(wrong, [Attribute("camera", camera)], groups)
    (found,) = report["slices"]
    assert "camera" in found["words"]
    assert "old" in found["words"]
    assert (found["n"], found["wrong"], found["groups"]) == (100, 60, 20)


def test_slices_with_few_images_and_equal_slices_are_not_tested() -> None:
    values = np.where(np.arange(40) < 9, "rare", "common")
    assert find_weak_slices(np.arange(40) < 9, [Attribute("format", values)], np.arange(40))["tested"] == 0
    constant = Attribute("size", np.full(40, 200.0), "small", "large", "shorter side, pixels")
    assert find_weak_slices(np.arange(40) < 9, [constant], np.arange(40))["tested"] == 0
    twice = [Attribute(name, np.arange(80.0), "a", "b", "c") for name in ("one", "two")]
    assert find_weak_slices(np.arange(80) < 9, twice, np.arange(80))["tested"] == 2  # both quarters, once each


@pytest.mark.parametrize("wrong", [np.zeros(50, bool), np.ones(50, bool)])
def test_without_mistakes_or_with_nothing_else_nothing_is_tested(wrong: np.ndarray) -> None:
    light = Attribute("light", np.arange(50.0), "dark", "bright", "brightness")
    assert find_weak_slices(wrong, [light], np.arange(50)) == {
        "n": 50,
        "wrong": int(wrong.sum()),
        "tested": 0,
        "slices": [],
    }


def test_what_the_source_tells_is_an_attribute_a_number_only_if_all_of_it_are() -> None:
    def attributes(about: list[dict[str, str]]) -> dict[str, Attribute]:
        examples = [
            Example(str(n), "p", "a", "test", 9, 9, "PNG", "", about=json.dumps(one) if one else None)
            for n, one in enumerate(about)
        ]
        images = [np.zeros((len(about), 224, 224, 3), np.uint8)]
        return {one.name: one for one in attributes_of(examples, [{}] * len(about), images)}

    told = [{"age": str(n), "camera": "new" if n % 2 else "old"} for n in range(20)]
    found = attributes(told)
    assert found["age"].values.tolist() == list(range(20))
    assert found["camera"].values.tolist() == ["old", "new"] * 10
    found = attributes([*told, {"camera": "7"}, {}])
    assert np.isnan(found["age"].values[-2:]).all()
    assert found["camera"].values[-2:].tolist() == ["7", "(empty)"]
    found = attributes([*told, {"age": "nan"}])
    assert found["age"].values[-1] == "nan"
    assert find_weak_slices(np.arange(21) < 10, list(found.values()), np.arange(21))["tested"] > 0


def test_attributes_come_from_what_prepare_knows_and_never_from_the_label() -> None:
    scores = {"light": 0.5, "contrast": 0.4, "sharpness": 0.2, "single_colour_share": 0.1}
    examples = [
        Example(
            str(place), "p", f"label {place % 2}", "test", 100 + place, 300, "PNG", "exif_oriented" if place else ""
        )
        for place in range(3)
    ]
    grey, red = np.full((224, 224, 3), 90, np.uint8), np.zeros((224, 224, 3), np.uint8)
    red[:112, :, 0] = 255
    images = iter([np.stack([grey, grey]), np.stack([red])])
    found = {one.name: one.values for one in attributes_of(examples, [scores] * 3, images)}
    assert found["size"].tolist() == [100, 101, 102]
    assert found["shape"].tolist() == pytest.approx([3, 300 / 101, 300 / 102])
    assert found["format"].tolist() == ["PNG"] * 3
    assert found["exif_oriented"].tolist() == ["no", "yes", "yes"]
    assert found["light"].tolist() == [0.5] * 3
    assert found["colour"][0] == found["colour"][1] == 0
    assert found["colour"][2] > 0.3
    assert not any("label" in str(value) for values in found.values() for value in values)


@pytest.mark.parametrize(("images", "mistakes"), [(1, 1), (20, 5), (153, 150), (5000, 400)])
def test_chances_and_their_adjustment_are_scipys(images: int, mistakes: int) -> None:
    random = np.random.default_rng(images)
    drawn = random.integers(1, images + 1, 40)
    fewest, most = np.maximum(0, drawn + mistakes - images), np.minimum(mistakes, drawn)
    hits = random.integers(fewest, most + 1)
    chances = _chances_of_as_many(hits, drawn, mistakes, images)
    np.testing.assert_allclose(chances, hypergeom.sf(hits - 1, images, mistakes, drawn), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(_control_false_discoveries(chances), false_discovery_control(chances))
