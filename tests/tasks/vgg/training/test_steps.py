"""A step goes where the whole set's gradient points, on any number of devices and in any number of parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.scores import log_loss
from tasks.settings import ClassWeight
from tasks.vgg.strategies import plan_phases
from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.feeds import Feed
from tasks.vgg.training.outcome import example_weights
from tests.conftest import PROJECT
from tests.tasks.steps import Change
from tests.tasks.vgg.training.one_step import DEVICES, PARTS, PHASE, Numbers, draw, gradients, make_steps

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("weight", ["none", "balanced"])
def test_steps_of_an_epoch_add_up_to_the_gradient_of_the_whole_set(weight: ClassWeight) -> None:
    """Each image counts by its weight alone, whatever else is in its batch, and however small the batch is."""
    inputs, labels = draw(25)
    feed = Feed(Numbers(inputs), tuple(map(str, range(25))), labels, example_weights(labels, weight))
    [whole] = feed.shuffled(25, 0, 0, 0, 0)
    batches = list(feed.shuffled(8, 0, 0, 0, 0))
    assert [(len(one[0]), int((one[2] > 0).sum())) for one in batches] == [(8, 6), (8, 6), (8, 6), (8, 7)]
    [expected] = gradients([whole])
    found = gradients(batches)
    for name, value in expected.items():
        mean = sum(one[name] for one in found) / len(found)
        np.testing.assert_allclose(mean, value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_validation_images_of_a_refit_are_not_augmented() -> None:
    """`features` computes augmented versions of training images only."""
    inputs, labels = draw(40)
    reader = Numbers(inputs)
    feed = Feed(reader, tuple(map(str, range(40))), labels, example_weights(labels, "none"), augmented=30)
    list(feed.shuffled(40, 3, 0, 0, 0))
    augmented = {int(name.split(".")[0]) for name in reader.asked if "." in name}
    assert augmented
    assert max(augmented) < 30


def test_no_step_is_compiled_by_xla_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There its maximum pooling has no deterministic gradient: each training of a block ended at its first step."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: ["GPU"])
    steps = make_steps(PHASE)
    assert not any(function._jit_compile for function in (steps._gradients, steps._logits, steps._update))


def test_gradient_is_the_same_on_two_devices_and_in_parts(tmp_path: Path) -> None:
    file = tmp_path / "gradients.npz"
    command = [sys.executable, "-m", "tests.tasks.vgg.training.one_step", str(file)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, timeout=300)
    found = np.load(file)
    names = {key.split("/", 2)[2] for key in found.files}
    assert len(found.files) == len(names) * len(DEVICES) * len(PARTS)
    for key in found.files:
        alone = found[f"1/1/{key.split('/', 2)[2]}"]
        assert np.abs(alone).max() > 1e-5
        np.testing.assert_allclose(found[key], alone, rtol=1e-3, atol=1e-6, err_msg=key)


def test_loss_of_a_step_is_the_log_loss_that_chooses_the_epoch(change: Change) -> None:
    """A probe has the lowest log loss that it can have, so training by another measure would begin by losing some."""
    inputs, labels = draw(6)
    steps = make_steps(first_phase(change))
    batch = (inputs, labels, np.full(6, 1 / 6, np.float32))
    expected = log_loss(steps.predict([batch]), labels)
    loss, _ = steps.train(batch, 0.0)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_weights_stay_without_a_gradient(change: Change) -> None:
    steps = make_steps(first_phase(change))
    before, variables = steps.network.tensors(), list(steps.network.variables.values())
    steps.optimizer.apply([np.zeros(variable.shape, np.float32) for variable in variables], variables)
    for name, value in steps.network.tensors().items():
        np.testing.assert_array_equal(value, before[name])


def first_phase(change: Change) -> Phase:
    settings = change()
    return plan_phases("progressive", settings.train, settings.augmentation)[0]
