"""The cost of an epoch: cached boundaries against the whole network, and our fine-tuning against the tutorial's.

    python -m benchmarks.epochs [--steps 4]

It measures training steps of 32 random images. An epoch has the same number of steps on each side, so the ratio of
steps is the ratio of epochs. `progressive` and `fine_tuning` use the phases that params.yaml plans, in the precision of
this machine, `fine_tuning` also in float32; the tutorial's fine-tuning trains everything in float32. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.workspaces import PROJECT
from tasks.params import load_settings
from tasks.vgg.backbone import boundary_shape
from tasks.vgg.engine_choice import training_precision
from tasks.vgg.head import new_head
from tasks.vgg.quiet_tensorflow import load_tensorflow
from tasks.vgg.strategies import plan_phases
from tasks.vgg.strategies.base import Phase
from tasks.vgg.weights import load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    steps = parser.parse_args().steps
    load_tensorflow()
    settings = load_settings(Path(PROJECT))
    rules = settings.train
    precision = training_precision(rules)
    block5, *_ = plan_phases("progressive", rules, settings.augmentation)
    (blocks,) = plan_phases("fine_tuning", rules, settings.augmentation)
    tutorial = rules.model_copy(update={"recipe": "tutorial"})
    (everything,) = plan_phases("fine_tuning", tutorial, settings.augmentation)
    cached, uncached = (step_s(block5, start, precision, steps) for start in (block5.boundary, None))
    ours = step_s(blocks, blocks.boundary, precision, steps)
    single = step_s(blocks, blocks.boundary, "float32", steps)
    theirs = step_s(everything, None, "float32", steps)
    print(
        json.dumps(
            {
                "precision": precision,
                "progressive_block5_cached_s": round(cached, 2),
                "progressive_block5_uncached_s": round(uncached, 2),
                "ratio_of_the_cache": round(uncached / cached, 2),
                "fine_tuning_s": round(ours, 2),
                "fine_tuning_uncached_s": round(step_s(blocks, None, precision, steps), 2),
                "fine_tuning_float32_s": round(single, 2),
                "ratio_of_the_precision": round(single / ours, 2),
                "tutorial_fine_tuning_s": round(theirs, 2),
                "ratio_to_the_tutorial": round(theirs / ours, 2),
            },
            indent=2,
        )
    )


def step_s(phase: Phase, start: str | None, precision: str, steps: int) -> float:
    """Seconds of a training step, without the first one, which includes tracing and planning."""
    from tasks.vgg.training.network import Classifier, build_network
    from tasks.vgg.training.steps import Steps, choose_devices

    devices = choose_devices()
    shape = boundary_shape(start) if start else (224, 224, 3)
    head = new_head("average_maximum", (7, 7, 512), None, 2, 0)
    network = build_network(Classifier(load_weights(), head), start, shape, phase.unfrozen, precision)
    compiled = Steps(network, phase, devices)
    pixels = np.random.default_rng(0).uniform(0, 255, (phase.batch_size, *shape))
    inputs = pixels.astype(np.float16 if start else np.uint8)
    labels = np.arange(phase.batch_size, dtype=np.int32) % 2
    batch = (inputs, labels, np.full(phase.batch_size, 1 / phase.batch_size, np.float32))
    compiled.train(batch, 1.0)
    begun = time.perf_counter()
    for _ in range(steps):
        compiled.train(batch, 1.0)
    return (time.perf_counter() - begun) / steps


if __name__ == "__main__":
    main()
