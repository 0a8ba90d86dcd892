"""The model card: Markdown as Hugging Face shows it; everything that came from data is escaped.

Its sections follow Mitchell et al. 2019, Model Cards for Model Reporting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.markdown_tables import markdown_table
from tasks.reports import wording
from tasks.reports.text import markdown_cell, percent, without_credentials

_LISTED_CLASSES = 1000

_RECIPE = """\
- RGB images of any size, 8 bit. The orientation from EXIF is applied, then the image is stretched to 224 x 224 with
  antialiased bilinear resampling.
- The channels are swapped to BGR and (103.939, 116.779, 123.68) is subtracted, without scaling. This happens
  **inside** the exported graph: give it plain RGB values from 0 to 255. Do not divide by 255 or subtract a mean."""

_SAVED_MODEL = """\
### SavedModel (TensorFlow, TensorFlow Serving)

It takes encoded images (the bytes of JPEG or PNG files) and returns `label` (n,), `probability` (n,) and
`probabilities` (n, classes). An image that it can't decode exactly (another format, CMYK) makes the whole batch fail,
with the reason. So send images one by one, or use `python -m tasks.predict`, which reads every supported format.

```python
import tensorflow as tf

model = tf.saved_model.load("saved_model")
predicted = model.signatures["serving_default"](images=tf.constant([open("image.jpg", "rb").read()]))
print(predicted["label"][0].numpy().decode(), float(predicted["probability"][0]))
```
"""
_ONNX = """\
### ONNX

It takes float32 RGB images (n, 224, 224, 3), values 0 to 255, and returns probabilities (n, classes) and pooled
features (n, 1024). For 16-bit or transparent images follow `tasks/images/decoding.py`, or use
`python -m tasks.predict`.

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

Its input is that of ONNX; make `pixels` in the same way. It returns probabilities (n, classes).

```python
import tensorflow as tf

interpreter = tf.lite.Interpreter("model.tflite")
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
interpreter.invoke()
probabilities = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
```
"""
_INT8 = """\
### {name}

Use `{file}` as the file in float32 above: inputs and outputs are the same. The table above says what it costs.
Its probabilities differ, so what the evaluation says of unsure answers doesn't hold for it.

```python
{code}
```
"""
LOADING: dict[str, str] = {
    "saved_model": _SAVED_MODEL,
    "onnx": _ONNX,
    "tflite": _TFLITE,
    "onnx_int8": _INT8.format(
        name="ONNX in 8-bit integers",
        file="model.int8.onnx",
        code='session = onnxruntime.InferenceSession("model.int8.onnx")',
    ),
    "tflite_int8": _INT8.format(
        name="LiteRT in 8-bit integers",
        file="model.int8.tflite",
        code='interpreter = tf.lite.Interpreter("model.int8.tflite")',
    ),
}
"""How to load each of `export.formats`."""


def render_model_card(
    evaluation: Mapping[str, Any], formats: Sequence[str] = tuple(LOADING), table: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Write the card of the champion.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
        formats: those of `export.formats` that the card explains.
        table: rows of `parity.json`.

    Raises:
        ValueError: a format is unknown.
    """
    unknown = [name for name in formats if name not in LOADING]
    if unknown:
        raise ValueError(f"formats must be of {', '.join(LOADING)}. Received: {', '.join(unknown)}")
    classes, champion = evaluation["classes"], evaluation["strategies"][evaluation["champion"]]
    test = champion["test"]
    parts = [
        _front_matter(test),
        _summary(evaluation, champion),
        _use(classes, evaluation.get("foreign")),
        "## Classes\n\n" + _classes(classes),
        _data(evaluation["data"], champion["training"]),
        _metrics(test),
        _limits(test),
        f"## Input\n\n{_RECIPE}\n",
        _formats(table),
        "## How to load\n\n" + "\n".join(LOADING[name] for name in formats),
        _backbone(champion["backbone"]),
    ]
    return "\n".join(parts)


def _front_matter(test: Mapping[str, Any]) -> str:
    """The YAML head that Hugging Face reads. It holds numbers and fixed words only, so nothing needs escaping."""
    return f"""\
---
pipeline_tag: image-classification
tags: [image-classification, vgg16, transfer-learning, rootstock]
model-index:
- name: rootstock
  results:
  - task: {{type: image-classification}}
    dataset: {{type: custom, name: held-out images, split: test}}
    metrics:
    - {{type: accuracy, value: {json.dumps(test["accuracy"])}}}
---
"""


def _summary(evaluation: Mapping[str, Any], champion: Mapping[str, Any]) -> str:
    classes, test = evaluation["classes"], champion["test"]
    task = " or ".join(markdown_cell(name, 40) for name in classes) if len(classes) <= 3 else f"{len(classes)} classes"
    sentence = wording.groups_sentence(test)
    return f"""\
# Image classifier: {task}

VGG16, pretrained on ImageNet, and trained by the strategy `{evaluation["champion"]}`, recipe `{champion["recipe"]}`.
{champion["description"]}

Test accuracy: **{percent(test["accuracy"])}** of {test["n"]} images ({wording.interval(test)}; majority-class baseline
{percent(test["majority_accuracy"])}).{" " if sentence else ""}{sentence}
"""


def _use(classes: Sequence[str], foreign: Mapping[str, Any] | None) -> str:
    told = ""
    if foreign:
        called = percent(foreign["called_foreign"]["value"])
        told = f"""
`python -m tasks.predict` also says of each image whether it is foreign, that is, unlike the images of these classes. It
called {called} of the test images so. The SavedModel and the LiteRT file don't say it.
"""
    return f"""\
## Intended use

The model classifies images of the same kind as its training images: images that show one of the
{len(classes)} classes below. Its label is always one of these classes, whatever the image shows. It is not meant for
decisions about people, nor for uses where a wrong prediction does harm and no person checks it.
{told}"""


def _classes(classes: Sequence[str]) -> str:
    rows = [[str(number), markdown_cell(name)] for number, name in enumerate(classes[:_LISTED_CLASSES])]
    more = len(classes) - _LISTED_CLASSES
    note = f"\nAnd {more} more, in `labels.txt`.\n" if more > 0 else ""
    return f"{markdown_table(['index', 'class'], rows, right=['index'])}\n{note}"


def _data(data: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    others = {training.get("chosen_on", "validation")} - {"validation"}
    if "folds" in training:
        others.add(f"{training['folds']['count']} folds of train and validation")
    folds = "".join(f" and on {images}" for images in sorted(others))
    counts = data["classes"].values()
    splits = ", ".join(f"{sum(row[split] for row in counts)} {split}" for split in ("train", "validation", "test"))
    origin = markdown_cell(without_credentials(data["source"])) if data["source"] else "not recorded"
    excluded = sum(data["excluded"].values())
    return f"""\
## Data

- Source: {origin}
- Images: {data["accepted"]} accepted ({splits}), {data["quarantined"]} quarantined, {excluded} excluded
- All choices were made on the validation images{folds}; the test images were used only for the metrics.
{_about(data.get("about") or {})}
"""


def _about(about: Mapping[str, str]) -> str:
    """The source's description of itself, and always who has the rights in the images."""
    known = [
        f"- {name.capitalize()}: {markdown_cell(about[name], 600)}"
        for name in ("name", "description", "licence", "citation", "homepage")
        if about.get(name)
    ]
    return "\n".join(known if about.get("licence") else [*known, "- The rights in the images are their owners'."])


def _metrics(test: Mapping[str, Any]) -> str:
    rows = [
        ("accuracy", f"{percent(test['accuracy'])} ({wording.interval(test)}; {wording.interval_method(test)})"),
        ("balanced accuracy", percent(test["balanced_accuracy"])),
        ("macro F1", percent(test["macro_f1"])),
        ("log loss", f"{test['log_loss']:.4f}"),
        ("expected calibration error", percent(test["expected_calibration_error"])),
        ("accuracy of the majority-class baseline", percent(test["majority_accuracy"])),
    ]
    numbers = ["precision", "recall", "F1", "images"]
    per_class = [
        [markdown_cell(name), *(percent(one[metric]) for metric in ("precision", "recall", "f1")), str(one["support"])]
        for name, one in test["per_class"].items()
    ]
    return f"""\
## Evaluation

On {test["n"]} test images, which were used neither for training nor for any choice.

{markdown_table(["metric", "value"], rows)}

{markdown_table(["class", *numbers], per_class, right=numbers)}
"""


def _limits(test: Mapping[str, Any]) -> str:
    recalls = {name: one["recall"] for name, one in test["per_class"].items() if one["recall"] is not None}
    weakest = min(recalls, key=lambda name: recalls[name])
    return f"""\
## Limits

- The metrics hold for images like the test images. With other cameras, places or seasons the accuracy can be lower:
  evaluate the model there.
- The class with the lowest recall ({percent(recalls[weakest])}) is {markdown_cell(weakest)}.
- Images are stretched to a square, so very long or very wide ones are distorted, and small details are lost.
- The backbone learned from ImageNet, so the model inherits ImageNet's biases and gaps.
- A probability is an estimate: the expected calibration error above is its mean distance from the accuracy.
"""


def _formats(table: Sequence[Mapping[str, Any]]) -> str:
    """What each format differs by from the trained model."""
    if not table:
        return ""
    numbers = ["MB", "images", "median difference", "largest difference", "other answers", "accuracy lost"]
    rows = [
        [
            row["name"],
            f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "left out",
            str(row["images"]),
            _level(row["median_difference"]),
            _level(row["largest_difference"]),
            str(row["changed_answers"]),
            _loss(row["accuracy"]) if "accuracy" in row else "",
        ]
        for row in table
    ]
    return f"""\
## Formats

Differences are those of probabilities from the trained model's, on held-out images and copies of one of them in other
encodings.

{markdown_table(["format", *numbers], rows, right=numbers)}
"""


def _level(value: float) -> str:
    return f"{value:.3f}" if value else "below 0.001"


def _loss(accuracy: Mapping[str, Any]) -> str:
    low, high = accuracy["difference_ci95"]
    return f"{percent(accuracy['difference'])} ({percent(low)} to {percent(high)})"


def _backbone(backbone: Mapping[str, Any]) -> str:
    rows = [f"- {markdown_cell(str(key).replace('_', ' '))}: {markdown_cell(value)}" for key, value in backbone.items()]
    changed = "changed: it was trained further" if backbone.get("trained_further") else "used without change"
    return "\n".join(
        [
            "## Backbone and licence\n",
            "VGG16 (Simonyan and Zisserman 2014, Very Deep Convolutional Networks for Large-Scale Image Recognition).",
            "Weights: Visual Geometry Group, University of Oxford, licensed under",
            "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), as distributed with Keras; the backbone is",
            f"{changed}.\n",
            "This card states no licence for the trained model, because that also depends on the training images. Its",
            "owner can add `license:` to the head of this card.\n",
            *rows,
            "",
        ]
    )
