"""Complete trainings of a miniature VGG, in this process and in others that are killed.

python -m tests.tasks.vgg.training.miniature WORKSPACE STRATEGY [kill-at N | term-at N | devices N] [improving]
python -m tests.tasks.vgg.training.miniature WORKSPACE STRATEGY kill-in-choice

The signals come at step N, or when the second share of the way is measured. With `improving` every epoch has a lower
validation loss than the one before, the mean of both a still lower one, and none is at chance.

As the program of a fork server it imports everything that trains, and computes nothing before it is forked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import features, train
from tasks.params import load_settings
from tasks.vgg import engine_choice, inference
from tasks.vgg.engines import Engine
from tasks.vgg.training import gradient_training, interpolation
from tasks.workspace import TRAINED, Workspace
from tests.conftest import PROJECT, contents
from tests.tasks.fork_server import ForkServer
from tests.tasks.vgg.small_weights import tiny_weights

QUICK = (
    "features.boundary_cache=always",
    "augmentation.count=2",
    "train.checkpoint_interval_s=0",
    "train.tutorial.batch_size=6",
    "train.tutorial.epochs=2",
    "train.tutorial.hidden_units=4",
    "train.modern.batch_size=6",
    "train.modern.inverse_regularization=[1.0, 100.0]",
    "train.modern.patience=2",
    "train.modern.head_replacement.epochs=2",
    "train.modern.fine_tuning.blocks=5",
    "train.modern.fine_tuning.epochs=2",
    "train.modern.progressive.epochs=2",
)
STRATEGIES = ("head_replacement", "fine_tuning", "progressive")
Uninterrupted = Callable[[Path, str], dict[str, bytes]]


def use_tiny_weights(patch: Any = setattr) -> None:
    for module in (features, inference, gradient_training):
        patch(module, "load_weights", tiny_weights)
    patch(engine_choice, "choose_engine", lambda *_: Engine("ncnn", "float32"))


def forking_trainings() -> ForkServer:
    """Runs trainings without importing TensorFlow again."""
    ours = ("tasks.vgg.training.gradient_training", "tasks.vgg.training.steps")
    return ForkServer(__name__, *ours, "keras", "pyarrow.dataset")


def run_training(workspace: Path, strategy: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", __name__, str(workspace), strategy, *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)


def model(workspace: Path, strategy: str) -> dict[str, bytes]:
    """The trained files, without the live metrics, which count an interrupted epoch's steps anew."""
    found = contents(workspace / TRAINED / strategy)
    return {name: content for name, content in found.items() if not name.startswith("live")}


def main() -> None:
    workspace, strategy, *rest = sys.argv[1:]
    use_tiny_weights()
    from tasks.vgg.training import loop
    from tasks.vgg.training.steps import Steps

    if rest[-1:] == ["improving"]:
        training = loop._PhaseTraining
        measure, plain_with = training._measure, training._measure_with
        training._measure = lambda self: (-self._state.epoch, measure(self)[1])  # type: ignore[method-assign]
        training._measure_with = lambda self, tensors: plain_with(self, tensors) - 0.5  # type: ignore[method-assign]
        loop.is_at_chance = lambda *_: False
        rest.pop()
    if rest and rest[0] == "devices":
        import tensorflow as tf

        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(rest[1]))
    elif rest == ["kill-in-choice"]:
        mix = loop.mix

        def killed(start: Any, end: Any, share: float) -> Any:
            if share > interpolation.BETWEEN[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return mix(start, end, share)

        loop.mix = killed
    elif rest:
        sent = {"kill-at": signal.SIGKILL, "term-at": signal.SIGTERM}[rest[0]]
        left, plain = [int(rest[1])], Steps.train

        def interrupted(self: Steps, *args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), sent)
            return plain(self, *args)

        Steps.train = interrupted  # type: ignore[method-assign]
    train.run(load_settings(Path(workspace)), Workspace.at(Path(workspace)), strategy)


if __name__ == "__main__":
    main()
