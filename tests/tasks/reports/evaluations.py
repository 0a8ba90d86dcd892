"""Evaluations for the tests of the reports, hostile names among them, and a reader of pages."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import numpy as np

from tasks.reports.answers import Predictions, answer_rule
from tasks.reports.metrics import calibration, measure
from tasks.reports.page import render_page, shown_images
from tasks.reports.uncertainty import compare_with_champion
from tasks.reports.what_if import measure_what_if
from tasks.scores import predict

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</style><script>alert(2)</script>",
    '" onmouseover="alert(3)',
    "' autofocus onfocus='alert(4)",
    "=cmd|' /C calc'!A0",
    "a|b",
    "../x",
    "{{ 7*7 }}{% raw %}",
    "javascript:alert(5)",
    "right\u202eleft",
    "new\nline\x00\x1b[31m",
    "undecodable \udcff",
    "long" * 300,
    "&lt;b&gt;",
]
ELEMENTS = (
    "html head meta title style body header main nav footer section div p span strong b i bdi br a ul li dl dt dd "
    "h1 h2 h3 figure figcaption img table thead tbody tr th td code svg path g rect line circle polyline text"
)
ATTRIBUTES = (
    "colspan lang charset http-equiv content name class id href style title alt src width height role scope tabindex "
    "aria-label aria-hidden viewbox fill stroke stroke-width stroke-linecap stroke-linejoin d x y x1 x2 y1 y2 cx cy "
    "r rx points transform text-anchor font-family font-size fill-opacity xmlns"
)


OTHER_PAGES = {"data.html", "map.html"}


class Page(HTMLParser):
    """Collects elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style: list[str] = []
        self._in_style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        (self.style if self._in_style else self.text).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_evaluation(
    classes: list[str], strategies: int = 1, n: int = 60, groups: np.ndarray | None = None, **data: Any
) -> dict[str, Any]:
    """An evaluation as `tasks.evaluate` writes it, with made-up predictions; the last class has no test image."""
    random = np.random.default_rng(0)
    labels = random.integers(0, max(1, len(classes) - 1), n)
    named: dict[str, Any] = {}
    right = []
    for number in range(strategies):
        logits = random.normal(size=(n, len(classes)))
        logits[np.arange(n), labels] += 2 - number
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        metrics = measure(probabilities, labels, classes, groups)
        training = {"candidates": [{"inverse_regularization": 0.1, "log_loss": 0.3}], "chosen": {"C": 0.1}}
        training |= {"chosen_on": "validation", "network_passes": 300 * 20**number}
        named[f"strategy_{number}"] = {
            "recipe": "modern",
            "description": "Only a linear model is trained.",
            "problem": None,
            "validation": metrics,
            "test": metrics,
            "backbone": {"engine": "tensorflow", "precision": "float32"},
            "training": training,
        }
        right.append(predict(probabilities) == labels)
    predicted = predict(probabilities)
    wrong = np.flatnonzero(predicted != labels)[:4].tolist()
    mistakes = [
        {
            "key": "0" * 64,
            "path": f"{classes[labels[place]]}/{place}.jpg",
            "actual": classes[labels[place]],
            "predicted": classes[predicted[place]],
            "probability": 0.987654,
            "probability_actual": 0.0001,
        }
        for place in wrong
    ]
    predictions = Predictions(probabilities, labels, np.arange(n) if groups is None else groups)
    counts = {name: {"train": 3, "validation": 1, "test": 2} for name in classes}
    known = {"source": "demo", "accepted": 9, "quarantined": 0, "excluded": {}, "quarantined_by_code": {}}
    return {
        "champion": "strategy_0",
        "champion_rule": "rule",
        "choice": {
            "folds": None,
            "images": 40,
            "accuracy": {"strategy_0": 0.9},
            "log_loss": {"strategy_0": 0.3},
            "resamples": 50,
            "chosen": {"strategy_0": 0.9, "strategy_1": 0.1},
            "lost": 0.002,
        },
        "balanced": False,
        "classes": classes,
        "strategies": named,
        "compare": {"folds": None, "budget_minutes": None, "left_out": None},
        "comparisons": compare_with_champion(
            "strategy_0", {f"strategy_{number}": hits for number, hits in enumerate(right)}, groups
        ),
        "calibration": calibration(probabilities, labels, groups),
        "recalibration": {
            "method": "temperature",
            "temperature": 1.5,
            "examples": 200,
            "test": {when: {"log_loss": 0.25, "expected_calibration_error": 0.03} for when in ("before", "after")},
        },
        "answers": answer_rule(predictions, predictions, classes, 0.9, each_class=len(classes) > 3),
        "mistakes": mistakes,
        "why": make_why(mistakes, classes),
        "weak": {"n": n, "wrong": 9, "tested": 3, "slices": [make_slice(name) for name in classes[:2]]},
        "what_if": make_what_if(),
        "foreign": make_foreign(classes),
        "data": {**known, "classes": counts, "quarantine": [], **data},
    }


def make_why(mistakes: list[dict[str, Any]], classes: list[str]) -> dict[str, Any]:
    found = {"places": np.linspace(-1, 2, 49).reshape(7, 7).tolist(), "constant": 0.5}
    near = [{"key": "1" * 64, "label": name, "path": name, "similarity": 0.5} for name in (classes * 3)[:3]]
    right = {"key": "2" * 64, "path": classes[0], "actual": classes[0], "other": classes[-1], "probability": 0.9}
    return {"mistakes": [{**found, "near": near} for _ in mistakes], "right": [{**right, **found}]}


def make_foreign(classes: list[str]) -> dict[str, Any]:
    known, share = {"value": 0.75, "ci95": [0.6, 0.9]}, {"value": 0.05, "ci95": [0.02, 0.08]}
    scores = {
        "energy": {"near": {"value": None, "ci95": None}, "far": known},
        "virtual_logit": {"near": known, "far": known},
    }
    most = [{"key": "5" * 64, "path": name, "label": name, "score": 3.0, "foreign": True} for name in classes[:3]]
    shares = {"called_foreign": share, "caught": {"value": 1.0, "ci95": [0.8, 1.0]}}
    numbers = {"threshold": 2.5, "images": 100, "far_images": 24, "tested": 40}
    return {"score": "virtual_logit", "scores": scores, "most": most, **shares, **numbers}


def make_slice(name: str) -> dict[str, Any]:
    shares = {"share": 0.4, "share_outside": 0.1, "ci95": [0.2, 0.6], "p_value": 1e-5, "adjusted_p_value": 0.01}
    shares["confused"] = {"actual": name, "predicted": name, "n": 5}
    return {"attribute": name, "words": name, "n": 20, "wrong": 8, "groups": 15, "keys": ["3" * 64], **shares}


def make_what_if() -> dict[str, Any]:
    hits = {strength: np.arange(20) >= 4 * strength for strength in (0, 1, 2, 3)}
    worse = {strength: hits[strength] for strength in (1, 2, 3)}
    found = measure_what_if(hits[0], {"darker": worse, "blurred": worse}, np.arange(20), 360)
    return {**found, "sample": "4" * 64}


def render(evaluation: dict[str, Any]) -> str:
    images = {key: np.full((224, 224, 3), 40 * number, np.uint8) for number, key in enumerate(shown_images(evaluation))}
    return render_page(evaluation, images)


def hostile_evaluation(classes: list[str]) -> dict[str, Any]:
    quarantine = [{"path": name, "sha256": "", "label": name, "code": name, "detail": name} for name in HOSTILE]
    return make_evaluation(
        classes,
        strategies=2,
        source=HOSTILE[0],
        quarantined=len(HOSTILE),
        quarantine=quarantine,
        quarantined_by_code=dict.fromkeys(HOSTILE, 1),
        excluded=dict.fromkeys(HOSTILE, 1),
    )
