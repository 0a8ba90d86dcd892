"""The model card: Markdown in the form that Hugging Face shows, with everything that came from data escaped.

Form: Mitchell et al. 2019, Model Cards for Model Reporting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tasks.reports.text import markdown_cell, percent, without_credentials
from tasks.reports.wording import recipe_sentence

_LISTED_CLASSES = 1000

_RECIPE = """\
- Any size, RGB, 8 bit: stretched to 224 x 224 with antialiased bilinear resampling. Orientation from EXIF is applied
  first.
- Channels are swapped to BGR and (103.939, 116.779, 123.68) is subtracted, no scaling. This happens **inside** the
  exported graph: give it plain RGB values from 0 to 255. Neither divide by 255 nor subtract a mean yourself."""

_SAVED_MODEL = """\
### SavedModel (TensorFlow, TensorFlow Serving)

Takes encoded images (the bytes of JPEG or PNG files), gives `label` (n,), `probability` (n,) and `probabilities`
(n, classes). What its decoder can't follow exactly (other formats, CMYK) it refuses with the reason, and with it the
whole batch: send images one by one, or score them with `python -m tasks.predict`, which takes every format.

```python
import tensorflow as tf

model = tf.saved_model.load("saved_model")
answer = model.signatures["serving_default"](images=tf.constant([open("image.jpg", "rb").read()]))
print(answer["label"][0].numpy().decode(), float(answer["probability"][0]))
```
"""
_ONNX = """\
### ONNX

Takes float32 RGB images (n, 224, 224, 3), values 0 to 255; gives probabilities (n, classes). For 16-bit or
transparent images follow `tasks/images/decoding.py`, or let `python -m tasks.predict` do all of it.

```python
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
image = image.resize((224, 224), Image.Resampling.BILINEAR)
session = onnxruntime.InferenceSession("model.onnx")
pixels = np.asarray(image, np.float32)[np.newaxis]
probabilities = session.run(None, {session.get_inputs()[0].name: pixels})[0]
labels = open("labels.txt", encoding="utf-8").read().split("\\n")
print(labels[probabilities[0].argmax()], probabilities[0].max())
```
"""
_TFLITE = """\
### LiteRT (TensorFlow Lite)

Input and output as with ONNX; `pixels` is made in the same way.

```python
import tensorflow as tf

interpreter = tf.lite.Interpreter("model.tflite")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
interpreter.invoke()
probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
```
"""
LOADING: dict[str, str] = {"saved_model": _SAVED_MODEL, "onnx": _ONNX, "tflite": _TFLITE}
"""How to load each of `export.formats`."""


def render_model_card(
    metrics: Mapping[str, Any],
    classes: Sequence[str],
    source: str | None,
    data: Mapping[str, Any],
    backbone: Mapping[str, Any],
    strategy: str,
    recipe: str,
    formats: Sequence[str] = tuple(LOADING),
    training: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Write the card of the champion.

    Args:
        metrics: `reports/evaluation.json`'s figures of the champion on the test images (see `metrics.measure`).
        classes: names in the order of the probabilities.
        source: where the images came from; None if that isn't known.
        data: `evaluation["data"]`: accepted, quarantined, excluded, counts.
        backbone: how the backbone computed, and `trained_further`, which blocks were; shown as it is.
        strategy: the champion's, as is `recipe`.
        formats: of `export.formats`, those that the card explains.
        training: the champion's summary of its training, as `reports/evaluation.json` tells it.

    Raises:
        ValueError: a format is unknown.
    """
    unknown = [name for name in formats if name not in LOADING]
    if unknown:
        raise ValueError(f"formats must be of {', '.join(LOADING)}. Received: {', '.join(unknown)}")
    parts = [
        _front_matter(metrics),
        _summary(metrics, classes, strategy, recipe, training),
        _use(classes),
        "## Classes\n\n" + _classes(classes),
        _data(source, data, training),
        _metrics(metrics),
        _limits(metrics),
        f"## Input\n\n{_RECIPE}\n",
        "## How to load\n\n" + "\n".join(LOADING[name] for name in formats),
        _backbone(backbone),
    ]
    return "\n".join(parts)


def _front_matter(metrics: Mapping[str, Any]) -> str:
    """The YAML head that Hugging Face reads; numbers and fixed words only, so nothing needs escaping."""
    return f"""\
---
license: cc-by-4.0
pipeline_tag: image-classification
tags: [image-classification, vgg16, transfer-learning, rootstock]
model-index:
- name: rootstock
  results:
  - task: {{type: image-classification}}
    dataset: {{type: custom, name: held-out images, split: test}}
    metrics:
    - {{type: accuracy, value: {json.dumps(metrics["accuracy"])}}}
---
"""


def _summary(
    metrics: Mapping[str, Any], classes: Sequence[str], strategy: str, recipe: str, training: Mapping[str, Any]
) -> str:
    low, high = metrics["accuracy_ci95"]
    few = len(classes) <= 3
    task = " or ".join(markdown_cell(name, 40) for name in classes) if few else f"{len(classes)} classes"
    return f"""\
# Image classifier: {task}

VGG16, pretrained on ImageNet; strategy `{_code(strategy)}`, recipe `{_code(recipe)}`.
{recipe_sentence(strategy, recipe, training)}

Right for **{percent(metrics["accuracy"])}** of {metrics["n"]} held-out images (95 % interval {percent(low)} to
{percent(high)}; always answering the commonest class: {percent(metrics["majority_accuracy"])}).
"""


def _use(classes: Sequence[str]) -> str:
    return f"""\
## Intended use

Give it an image that shows one of the {len(classes)} classes below, of the same kind as the images that it learned
from. It always answers with one of these classes, whatever the image shows. Not meant for decisions about people, nor
where a wrong answer does harm and no person looks at it.
"""


def _classes(classes: Sequence[str]) -> str:
    rows = [f"| {number} | {markdown_cell(name)} |" for number, name in enumerate(classes[:_LISTED_CLASSES])]
    more = len(classes) - _LISTED_CLASSES
    note = f"\nAnd {more} more, in `labels.txt`.\n" if more > 0 else ""
    return "\n".join(["| index | class |", "| ---: | --- |", *rows]) + f"\n{note}"


def _data(source: str | None, data: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    folds = "" if training.get("chosen_on", "validation") == "validation" else f" and by {training['chosen_on']}"
    counts = data["counts"].values()
    splits = ", ".join(f"{sum(row[split] for row in counts)} {split}" for split in ("train", "validation", "test"))
    origin = markdown_cell(without_credentials(source)) if source else "not recorded"
    left_out = f"quarantined: {data['quarantined']}; excluded: {sum(data['excluded'].values())}"
    return f"""\
## Data

- Source: {origin}
- Accepted: {data["accepted"]} images ({splits}); {left_out}
- Choices were made on the validation images{folds}; the test images only report.
{_about(data.get("about") or {})}
"""


def _about(about: Mapping[str, str]) -> str:
    """What the source says of itself; whose the images are, is never left open."""
    known = [
        f"- {name.capitalize()}: {markdown_cell(about[name], 600)}"
        for name in ("name", "description", "licence", "citation", "homepage")
        if about.get(name)
    ]
    return "\n".join(known if about.get("licence") else [*known, "- The rights in the images are their owners'."])


def _metrics(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_ci95"]
    rows = [
        ("accuracy", f"{percent(metrics['accuracy'])} (95 % interval {percent(low)} to {percent(high)}, Wilson)"),
        ("balanced accuracy", percent(metrics["balanced_accuracy"])),
        ("macro F1", percent(metrics["macro_f1"])),
        ("log loss", f"{metrics['log_loss']:.4f}"),
        ("expected calibration error", percent(metrics["expected_calibration_error"])),
        ("accuracy of always answering the commonest class", percent(metrics["majority_accuracy"])),
    ]
    per_class = [
        f"| {markdown_cell(name)} | {percent(one['precision'])} | {percent(one['recall'])} | {percent(one['f1'])} "
        f"| {one['support']} |"
        for name, one in metrics["per_class"].items()
    ]
    return "\n".join(
        [
            f"## Evaluation\n\nOn {metrics['n']} held-out images.\n",
            "| figure | value |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in rows),
            "\n| class | precision | recall | F1 | images |",
            "| --- | ---: | ---: | ---: | ---: |",
            *per_class,
            "",
        ]
    )


def _limits(metrics: Mapping[str, Any]) -> str:
    judged = {name: one["recall"] for name, one in metrics["per_class"].items() if one["recall"] is not None}
    weakest = min(judged, key=lambda name: judged[name])
    return f"""\
## Limits

- The figures hold for images like the held-out ones. Other cameras, places or seasons can do worse: measure there.
- Its weakest class is {markdown_cell(weakest)}: {percent(judged[weakest])} of that class are found.
- Images are stretched to a square, so very long or very wide ones look distorted to it; small details are lost.
- It inherits what ImageNet, from which the backbone learned, shows and doesn't show.
- A probability is no guarantee: the expected calibration error above says how far they are off on average.
"""


def _backbone(backbone: Mapping[str, Any]) -> str:
    rows = [f"- {markdown_cell(str(key).replace('_', ' '))}: {markdown_cell(value)}" for key, value in backbone.items()]
    return "\n".join(
        [
            "## Backbone and licence\n",
            "VGG16 (Simonyan and Zisserman 2014, Very Deep Convolutional Networks for Large-Scale Image Recognition).",
            "Weights: Visual Geometry Group, University of Oxford, licensed under",
            "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), as distributed with Keras; the backbone is",
            f"{'changed: it was trained further' if backbone.get('trained_further') else 'used without change'}.\n",
            *rows,
            "",
        ]
    )


def _code(name: str) -> str:
    return name.replace("`", "'")
