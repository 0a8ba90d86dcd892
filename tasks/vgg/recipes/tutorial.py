"""Recipe `tutorial` of feature extraction, as tutorials print it: Flatten, Dense relu, Dense softmax, Adam, some
epochs.

F. Chollet: Deep Learning with Python, 5.3, on features of the frozen base; with VGG16's own preprocessing instead of
1/255.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from dvclive import Live

from tasks.errors import TrainingError
from tasks.pictures.datasets import batches
from tasks.progress import Progress
from tasks.settings import ClassWeight, TutorialRecipe
from tasks.vgg.examples import Split
from tasks.vgg.head import Activation, Dense, Head
from tasks.vgg.recipes.outcome import Outcome, balanced_weights, log_step

if TYPE_CHECKING:
    import keras


def train(
    rules: TutorialRecipe,
    weight: ClassWeight,
    seed: int,
    classes: int,
    train: Split,
    validation: Split,
    live: Live,
) -> Outcome:
    """Train the head for all epochs and keep the last one, as the tutorial does.

    Raises:
        TrainingError: the loss became NaN or infinite.
    """
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = _build(rules, classes, train.features.shape)
    size = rules.batch_size
    held_out = batches(validation.features, validation.keys, validation.labels.tolist(), size)
    history: list[dict[str, float]] = []
    with Progress("train", rules.epochs, "epochs") as progress:
        for epoch in range(rules.epochs):
            examples = batches(
                train.features,
                train.keys,
                train.labels.tolist(),
                size,
                seed=seed,
                start_epoch=epoch,
                epochs=epoch + 1,
            )
            logs = model.fit(
                examples,
                validation_data=held_out,
                verbose=0,
                shuffle=False,
                class_weight=None if weight == "none" else balanced_weights(train.labels, classes),
            ).history
            history.append(_figures(logs, epoch))
            log_step(live, history[-1])
            progress.advance(details=history[-1])
    head = Head("flatten", (_dense(model, "hidden", "relu"), _dense(model, "classes", "softmax")))
    probabilities = np.concatenate([head.probabilities(validation.features.read(keys)) for keys in validation.chunks()])
    curves = {name: [figures[name] for figures in history] for name in history[0]}
    return Outcome(head, probabilities, {"history": curves})


def _build(rules: TutorialRecipe, classes: int, shape: tuple[int, ...]) -> keras.Model:
    import keras

    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(rules.hidden_units, activation="relu", name="hidden"),
            keras.layers.Dense(classes, activation="softmax", name="classes"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(rules.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _dense(model: keras.Model, name: str, activation: Activation) -> Dense:
    kernel, bias = model.get_layer(name).get_weights()
    return Dense(kernel, bias, activation)


def _figures(logs: dict[str, list[float]], epoch: int) -> dict[str, float]:
    figures = {name: round(float(values[-1]), 6) for name, values in logs.items()}
    if not np.isfinite(figures["loss"]):
        raise TrainingError(
            f"The loss became {figures['loss']} in epoch {epoch + 1}. "
            'Lower the rate and train again: make run SET="train.tutorial.learning_rate=0.0001"'
        )
    return figures
