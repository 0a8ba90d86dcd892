"""Batches in which each example is mixed with another one."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.vgg.training.mixup import Softened, mix_examples, soften

LABELS = np.array([0, 1, 2, 1, 0, 0], np.int32)
WEIGHTS = np.array([0.1, 0.4, 0.2, 0.1, 0.0, 0.0], np.float32)


def batch(kind: type = np.float32) -> Softened:
    inputs = np.random.default_rng(0).uniform(0, 200, (6, 2, 2, 3)).astype(kind)
    return soften((inputs, LABELS, WEIGHTS), 3)


def mixed(position: tuple[int, ...] = (0, 1, 2), kind: type = np.float32) -> Softened:
    return mix_examples(batch(kind), 1.0, position)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32])
def test_all_examples_keep_their_weight_and_their_share_of_the_classes(kind: type) -> None:
    inputs, targets, weights = mixed(kind=kind)
    assert inputs.dtype == targets.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    before = batch(kind)
    np.testing.assert_allclose(weights @ targets, before[2] @ before[1], rtol=1e-5)
    assert inputs[:4].mean() == pytest.approx(before[0][:4].mean(), rel=1e-4)
    assert not np.allclose(inputs[:4], before[0][:4])


def test_label_is_mixed_as_the_inputs_are() -> None:
    same = soften((np.arange(4, dtype=np.float32)[:, None], np.arange(4, dtype=np.int32), np.ones(4, np.float32)), 4)
    inputs, targets, _ = mix_examples(same, 1.0, (3, 0, 0))
    np.testing.assert_allclose(inputs[:, 0], targets @ np.arange(4), rtol=1e-5)


def test_padding_is_mixed_with_nothing() -> None:
    inputs, targets, weights = mixed()
    np.testing.assert_array_equal(weights[4:], 0)
    np.testing.assert_allclose(inputs[4:], batch()[0][4:], rtol=1e-6)
    np.testing.assert_array_equal(targets[4:], batch()[1][4:])


def test_mixture_depends_only_on_the_position() -> None:
    np.testing.assert_array_equal(mixed()[0], mixed()[0])
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not np.array_equal(mixed()[0], mixed(other)[0])
