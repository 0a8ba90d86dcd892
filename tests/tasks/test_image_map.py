"""The map that `evaluate` writes: all images, or a sample with all mistakes, and honest predictions."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.evaluate import run
from tasks.image_map import choose_examples
from tasks.images.manifest import Example
from tasks.workspace import Workspace
from tests.tasks.evaluate_workspace import STRATEGIES, make_settings, make_workspace
from tests.tasks.reports.test_map_page import split_scripts


def test_sample_keeps_the_mistakes_and_the_order() -> None:
    examples = [Example(f"{(7 * n) % 20:064x}", f"{n}", "a", "test", 9, 9, "PNG", "") for n in range(20)]
    wrong = {examples[3].key, examples[11].key, examples[17].key}
    chosen = choose_examples(examples, wrong, 8)
    assert len(chosen) == 8
    assert wrong <= {one.key for one in chosen}
    assert [examples.index(one) for one in chosen] == sorted(examples.index(one) for one in chosen)
    assert choose_examples(examples, wrong, 20) == examples


def test_evaluate_draws_every_image_with_predictions_of_models_that_did_not_learn_from_it(tmp_path: Path) -> None:
    run(make_settings(), Workspace.at(make_workspace(tmp_path, {STRATEGIES[0]: {"test": 0.8, "validation": 0.9}})))
    known = json.loads(split_scripts((tmp_path / "reports/map.html").read_text(encoding="utf-8"))[0])
    rows = list(zip(known["split"], known["label"], known["predicted"], strict=True))
    assert len(rows) == 30
    assert {predicted for split, _, predicted in rows if split == 0} == {-1}
    wrong = [split for split, label, predicted in rows if predicted not in (-1, label)]
    assert (wrong.count(1), wrong.count(2)) == (1, 2)
    assert len(known["path"]) == 30
