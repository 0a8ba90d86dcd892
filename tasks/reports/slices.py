"""Where the model is weak: slices of the held-out images in which it is wrong more often than elsewhere.

A slice is what one attribute of the images selects: the darkest tenth, or all PNG files. Each is tested against all
other images, and of the slices that are told, at most one of ten is expected to be chance (Y. Benjamini, Y. Hochberg,
1995). The label is no attribute: recalls tell of the classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.manifest import Example
from tasks.reports.influences import Booleans, share_of
from tasks.reports.uncertainty import interval
from tasks.scores import Floats, Integers

FALSE_DISCOVERIES = 0.1
"""Expected share of the slices told that are chance."""
FEWEST_IMAGES = 10
"""A smaller slice is not tested, nor one with fewer images outside."""
_TAILS = (0.1, 0.25)
_MOST_CATEGORIES = 20
_PERMUTATIONS = 9_999
_PERMUTED_VALUES = 500_000
"""How many numbers are permuted at once, which bounds the memory."""


@dataclass(frozen=True)
class Attribute:
    """What one number or word says about each image.

    Attributes:
        name: of the attribute.
        values: (n,) numbers, NaN where unknown; or words.
        low: what images with a low number are called; empty if the values are words.
        high: what images with a high number are called.
        measure: what the number is, with its unit.
    """

    name: str
    values: npt.NDArray[Any]
    low: str = ""
    high: str = ""
    measure: str = ""


@dataclass(frozen=True)
class _Slice:
    attribute: str
    side: str
    words: str
    inside: Booleans


_OF_SCORES = {
    "light": ("dark images", "bright images", "mean brightness, 0 to 1"),
    "contrast": ("images of low contrast", "images of high contrast", "contrast, 0 to 1"),
    "sharpness": ("images with few sharp edges", "images with many sharp edges", "variance of edges"),
    "single_colour_share": (
        "images of many colours", "images largely of one colour", "share of the most frequent colour",
    ),
}  # fmt: skip


def attributes_of(
    examples: Sequence[Example], scores: Sequence[Mapping[str, float]], images: Iterable[npt.NDArray[np.uint8]]
) -> list[Attribute]:
    """The attributes of images.

    Args:
        examples: n.
        scores: of their quality, n; see `tasks.images.quality`.
        images: the prepared images (224, 224, 3) RGB, in any number of batches, in the same order.
    """
    sides = np.array([(one.width_px, one.height_px) for one in examples], np.float64).reshape(-1, 2)
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    colours = np.array([_colourfulness(image) for batch in images for image in batch])
    found = [
        Attribute("size", shorter, "small images", "large images", "shorter side, pixels"),
        Attribute("shape", longer / shorter, "nearly square images", "long images", "longer side / shorter side"),
        Attribute("colour", colours, "pale images", "colourful images", "colourfulness, 0 to 1"),
    ]
    found += [
        Attribute(name, np.array([one[name] for one in scores]), *words)
        for name, words in _OF_SCORES.items()
        if all(name in one for one in scores)
    ]
    notes = sorted({note for one in examples for note in one.notes.split(",") if note})
    return [
        *found,
        Attribute("format", np.array([one.format for one in examples])),
        *_told(examples),
        *(Attribute(note, _yes_or_no(note in one.notes.split(",") for one in examples)) for note in notes),
    ]


def _told(examples: Sequence[Example]) -> Iterator[Attribute]:
    """What the source tells about the images: numbers if all of it are numbers, and many; else words."""
    told = [json.loads(one.about) if one.about else {} for one in examples]
    for name in sorted({name for one in told for name in one}):
        words = [str(one.get(name, "")) for one in told]
        numbers = np.array([_number(word) if word else np.nan for word in words])
        if np.isinf(numbers).any() or len(np.unique(numbers[np.isfinite(numbers)])) <= FEWEST_IMAGES:
            yield Attribute(name, np.array([word or "(empty)" for word in words]))
        else:
            yield Attribute(name, numbers, f"images with a low {name}", f"images with a high {name}", name)


def _number(word: str) -> float:
    """The number that a word spells, or infinity."""
    try:
        number = float(word)
    except ValueError:
        return float("inf")
    return number if np.isfinite(number) else float("inf")


def _yes_or_no(answers: Iterable[bool]) -> npt.NDArray[np.str_]:
    return np.array(["yes" if answer else "no" for answer in answers])


def _colourfulness(pixels: npt.NDArray[np.uint8]) -> float:
    """D. Hasler, S. Suesstrunk, Measuring Colourfulness in Natural Images, 2003; divided by 255.

    A sixteenth of the pixels tells it to 0.01.
    """
    red, green, blue = np.moveaxis(pixels[::4, ::4].astype(np.float32), -1, 0)
    across, along = red - green, (red + green) / 2 - blue
    return float(np.hypot(across.std(), along.std()) + 0.3 * np.hypot(across.mean(), along.mean())) / 255


def find_weak_slices(wrong: Booleans, attributes: Sequence[Attribute], groups: Integers) -> dict[str, Any]:
    """Find the slices with a higher share of mistakes than all other images.

    Args:
        wrong: (n,) whether the prediction is wrong.
        attributes: of the images.
        groups: (n,) numbers of the images' groups; a group counts once.

    Returns:
        n, wrong, tested (how many slices) and slices, the surest first: attribute, words, n, wrong, groups, share and
        share_outside of mistakes, ci95 of the share, p_value, adjusted_p_value, and places of the mistakes in it.
    """
    candidates = _candidates(attributes, len(wrong)) if wrong.any() and not wrong.all() else []
    report = {"n": len(wrong), "wrong": int(wrong.sum()), "tested": len(candidates)}
    if not candidates:
        return {**report, "slices": []}
    chances = p_values(np.stack([one.inside for one in candidates]), wrong, groups)
    adjusted = _control_false_discoveries(chances)
    order = sorted(range(len(candidates)), key=lambda place: (chances[place], -candidates[place].inside.sum(), place))
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for place in order:
        one = candidates[place]
        if adjusted[place] <= FALSE_DISCOVERIES and (one.attribute, one.side) not in told:
            both = {"p_value": float(chances[place]), "adjusted_p_value": float(adjusted[place])}
            told[one.attribute, one.side] = {**_describe(one, wrong, groups), **both}
    return {**report, "slices": list(told.values())}


def p_values(inside: Booleans, wrong: Booleans, groups: Integers) -> Floats:
    """Probability of each slice to have at least its mistakes if they came independently of it.

    For images that are alone, Fisher's exact test, one-sided. Otherwise a permutation test in which the groups exchange
    their shares of mistakes, so a group counts once, however many images it has.

    Args:
        inside: (slices, n).
        wrong: (n,).
        groups: (n,) numbers of the images' groups.
    """
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if sizes.max() == 1:
        hits = (inside & wrong).sum(axis=1)
        return _chances_of_as_many(hits, inside.sum(axis=1), int(wrong.sum()), len(wrong))
    members = np.stack([np.bincount(numbers, one) / sizes for one in inside])
    errors = np.bincount(numbers, wrong) / sizes
    found = members @ errors
    above = np.ones(len(inside))
    for permuted in _permutations(errors):
        above += (members @ permuted.T >= found[:, np.newaxis] - 1e-9).sum(axis=1)
    return above / (_PERMUTATIONS + 1)


def _chances_of_as_many(hits: Integers, drawn: Integers, mistakes: int, images: int) -> Floats:
    """Probability of at least so many hits if so many images are drawn (the hypergeometric distribution).

    SciPy's statistics would give the same, and take longer to import than the whole report.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, images + 1)))])  # of the factorials

    def ways(of: Any, chosen: Any) -> Any:
        return logs[of] - logs[chosen] - logs[of - chosen]

    chances = []
    for found, size in zip(hits.tolist(), drawn.tolist(), strict=True):
        more = np.arange(max(found, size + mistakes - images), min(mistakes, size) + 1)
        shares = np.exp(ways(mistakes, more) + ways(images - mistakes, size - more) - ways(images, size))
        chances.append(min(1.0, float(shares.sum())))
    return np.array(chances)


def _control_false_discoveries(chances: Floats) -> Floats:
    """P-values adjusted for their number (Y. Benjamini, Y. Hochberg, 1995)."""
    order = np.argsort(chances)
    ranked = chances[order] * len(chances) / np.arange(1, len(chances) + 1)
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(ranked[::-1])[::-1])
    return adjusted


def _permutations(values: Floats) -> Iterator[Floats]:
    rng, left = np.random.default_rng(0), _PERMUTATIONS
    while left:
        rows = min(left, max(1, _PERMUTED_VALUES // len(values)))
        yield rng.permuted(np.tile(values, (rows, 1)), axis=1)
        left -= rows


def _candidates(attributes: Sequence[Attribute], n: int) -> list[_Slice]:
    """The slices to test; of those with the same images, the first."""
    different: dict[bytes, _Slice] = {}
    for attribute in attributes:
        for one in _categories(attribute) if not attribute.low else _tails(attribute):
            if FEWEST_IMAGES <= one.inside.sum() <= n - FEWEST_IMAGES:
                different.setdefault(one.inside.tobytes(), one)
    return list(different.values())


def _categories(attribute: Attribute) -> Iterator[_Slice]:
    for value, _ in Counter(attribute.values.tolist()).most_common(_MOST_CATEGORIES):
        words = f"images with {attribute.name}: {value}"
        yield _Slice(attribute.name, value, words, np.equal(attribute.values, value))


def _tails(attribute: Attribute) -> Iterator[_Slice]:
    """The lowest and the highest tenth and quarter, unless equal values make them more than half."""
    values = attribute.values
    known = values[np.isfinite(values)]
    if not len(known):
        return
    for tail in _TAILS:
        low = np.quantile(known, tail, method="lower")
        high = np.quantile(known, 1 - tail, method="higher")
        for inside, word, bound in (
            (values <= low, attribute.low, f"up to {low:.3g}"),
            (values >= high, attribute.high, f"from {high:.3g}"),
        ):
            if 2 * inside.sum() <= len(known):
                yield _Slice(attribute.name, word, f"{word} ({attribute.measure}: {bound})", inside)


def _describe(one: _Slice, wrong: Booleans, groups: Integers) -> dict[str, Any]:
    inside = one.inside
    return {
        "attribute": one.attribute,
        "words": one.words,
        "n": int(inside.sum()),
        "wrong": int((inside & wrong).sum()),
        "groups": len(np.unique(groups[inside])),
        "share": float(wrong[inside].mean()),
        "share_outside": float(wrong[~inside].mean()),
        "ci95": interval(share_of(inside, wrong), groups),
        "places": np.flatnonzero(inside & wrong).tolist(),
    }
