"""The classifier while it trains: a Keras model from where training starts to the logits, and its weights by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.vgg.backbone import BOUNDARIES, keras_blocks, preprocess
from tasks.vgg.head import Dense, Floats, Head
from tasks.vgg.weights import Weights

if TYPE_CHECKING:
    import keras

HEAD = "head"


@dataclass(frozen=True)
class Classifier:
    """All weights of a classifier, as arrays.

    Attributes:
        backbone: of all 13 convolutions.
        head: pooling and dense layers.
    """

    backbone: Weights
    head: Head

    def tensors(self, unfrozen: Sequence[str]) -> dict[str, Floats]:
        """The weights of the head and of some blocks, by name."""
        blocks = {name: value for name, value in self.backbone.items() if group_of(name) in unfrozen}
        return {**blocks, **self.head.tensors()}

    def replaced(self, tensors: Mapping[str, Floats]) -> Classifier:
        """A copy in which the named weights are replaced."""

        def replace(number: int, layer: Dense) -> Dense:
            kernel, bias = (tensors.get(f"head_{number}/{part}") for part in ("kernel", "bias"))
            return layer if kernel is None or bias is None else Dense(kernel, bias, layer.activation)

        layers = tuple(replace(number, layer) for number, layer in enumerate(self.head.layers, 1))
        backbone = {name: np.asarray(tensors.get(name, value)) for name, value in self.backbone.items()}
        return Classifier(backbone, Head(self.head.pooling, layers))


@dataclass(frozen=True)
class Network:
    """A Keras model that outputs logits (n, classes) float32, and its trainable variables.

    Attributes:
        model: input is (n, 224, 224, 3) RGB or the output of a boundary, of any type.
        variables: name -> Keras variable, the order of the optimizer.
    """

    model: keras.Model
    variables: dict[str, Any]

    def tensors(self) -> dict[str, Floats]:
        """The current values of the trainable variables."""
        return {name: np.asarray(variable) for name, variable in self.variables.items()}


def build_network(
    classifier: Classifier, start: str | None, shape: Sequence[int], unfrozen: Sequence[str], precision: str
) -> Network:
    """The classifier from where training starts.

    Args:
        classifier: its weights.
        start: a boundary whose features are the input; None: images are.
        shape: of one input.
        unfrozen: blocks that are trained with the head.
        precision: of the activations, `float32` or `bfloat16`.
    """
    import keras

    given = keras.Input(tuple(shape), dtype="float32")
    first = BOUNDARIES.index(start) + 2 if start else 1
    values = given if start else preprocess(given)
    if first <= len(BOUNDARIES):
        outputs = keras_blocks(values, classifier.backbone, range(first, len(BOUNDARIES) + 1), precision)
        values = outputs[BOUNDARIES[-1]]
    model = keras.Model(given, classifier.head.apply_keras(values, logits=True))
    variables = {}
    for layer in model.layers:
        layer.trainable = group_of(layer.name) in (HEAD, *unfrozen)
        for variable in layer.trainable_variables:
            variables[f"{layer.name}/{variable.name}"] = variable
    return Network(model, variables)


def group_of(name: str) -> str:
    """`block5_conv1/kernel` -> `block5`; `head_1/bias` -> `head`: the group with its own learning rate."""
    return name.split("_")[0]
