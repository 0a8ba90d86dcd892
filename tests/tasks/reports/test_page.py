"""The report page: right numbers, nothing loaded from outside, and nothing from data is executed."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tasks.reports.metrics import measure
from tests.tasks.reports.evaluations import (
    ATTRIBUTES,
    ELEMENTS,
    HOSTILE,
    OTHER_PAGES,
    Page,
    hostile_evaluation,
    make_evaluation,
    render,
)


@pytest.mark.parametrize("classes", [HOSTILE, HOSTILE[:2], HOSTILE * 2], ids=["table", "title", "heat map"])
def test_page_escapes_hostile_names_everywhere(classes: list[str]) -> None:
    html = render(hostile_evaluation([name + "2" * (place // len(HOSTILE)) for place, name in enumerate(classes)]))
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    assert {name for _, attributes in page.elements for name in attributes} <= set(ATTRIBUTES.split())
    text = "".join(page.text)
    assert HOSTILE[0] in text
    assert HOSTILE[1] in text
    assert not {"\x00", "\x1b", "\u202e"} & set(html)
    html.encode("utf-8")


def test_page_keeps_styles_to_numbers() -> None:
    elements = Page(render(hostile_evaluation(HOSTILE))).elements
    one = r"(--(share|heat|n):[0-9.]+%?|--bar:var\(--(leaf|clay)\)|padding:0)"
    styles = [attributes["style"] or "" for _, attributes in elements if "style" in attributes]
    assert styles
    assert all(re.fullmatch(f"{one}(;{one})*", style) for style in styles)


@pytest.mark.parametrize("classes", [["ants", "bees"], HOSTILE, [f"class {number}" for number in range(100)]])
def test_page_loads_nothing_from_outside(classes: list[str]) -> None:
    html = render(make_evaluation(classes, strategies=2))
    page = Page(html)
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert {link["href"] for link in page.all("a") if not (link["href"] or "").startswith("#")} == OTHER_PAGES
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    assert "url(" not in "".join(page.style)
    assert "@import" not in "".join(page.style)


def test_page_forbids_all_but_inline_styles_and_data_images() -> None:
    metas = Page(render(make_evaluation(["a", "b"]))).all("meta")
    policies = [meta["content"] for meta in metas if "http-equiv" in meta]
    assert len(policies) == 1
    assert policies[0]
    assert policies[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


def test_page_tells_the_headline() -> None:
    evaluation = make_evaluation(["ants", "bees", "wasps"])
    test = evaluation["strategies"]["strategy_0"]["test"]
    text = "".join(Page(render(evaluation)).text)
    assert "ants, bees or wasps?" in text
    assert f"{test['correct']} of 60 test images" in text
    assert "Only a linear model is trained." in text
    assert f"{100 * test['accuracy_ci95'][0]:.1f}\u00a0%" in text
    assert "Visual Geometry Group, University of Oxford" in text
    assert "CC BY 4.0" in text


def test_page_images_are_small_jpegs_without_metadata() -> None:
    shown = Page(render(make_evaluation(["a", "b", "c"]))).all("img")
    assert shown
    assert all(image["alt"] for image in shown)
    image = Image.open(io.BytesIO(base64.b64decode((shown[0]["src"] or "").split(",")[1])))
    assert image.format == "JPEG"
    assert image.size == (224, 224)
    assert not image.getexif()


def test_page_tables_have_headers_with_scopes() -> None:
    page = Page(render(make_evaluation(["a", "b", "c"], 2)))
    assert page.all("table")
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))


def test_page_is_used_by_keyboard() -> None:
    page = Page(render(hostile_evaluation(["a", "b", "c"])))
    boxes = [box for box in page.all("div") if "scroll" in (box.get("class") or "").split()]
    assert boxes
    assert all(box.get("tabindex") == "0" and box.get("role") == "region" and box.get("aria-label") for box in boxes)
    focused = [attributes for name, attributes in page.elements if name == "a" or "tabindex" in attributes]
    assert focused[0]["href"] == "#main"
    assert [element.get("id") for element in page.all("main")] == ["main"]


def test_page_anchors_exist() -> None:
    for strategies in (1, 2):
        page = Page(render(make_evaluation(["a", "b"], strategies)))
        known = {attributes.get("id") for _, attributes in page.elements}
        assert {(link["href"] or "")[1:] for link in page.all("a") if link["href"] not in OTHER_PAGES} <= known


def test_page_compares_strategies_only_if_there_are_several() -> None:
    assert "Strategies compared" not in render(make_evaluation(["a", "b"]))
    assert "Strategies compared" in render(make_evaluation(["a", "b"], 3))


def test_page_with_a_single_strategy_says_how_to_compare_it_and_its_summary_leads_there() -> None:
    page = Page(render(make_evaluation(["a", "b"])))
    text = "".join(page.text)
    assert text.index("Other strategies") < text.rindex("make run STRATEGY=all")
    led = [link["href"] for link in page.all("a") if link.get("aria-label") == "More: strategies"]
    assert led == ["#strategies"]


@pytest.mark.parametrize("strategies", [1, 2])
def test_page_says_what_the_budget_left_out_and_how_long_it_would_take(strategies: int) -> None:
    evaluation = make_evaluation(["a", "b"], strategies)
    evaluation["compare"] = {"budget_minutes": 30, "left_out": [["fine_tuning", 45.2], ["progressive", None]]}
    told = (
        "Left out, because compare.budget_minutes=30 has no time for them: fine_tuning (about 45\u00a0min) and "
        "progressive (its time is unknown)."
    )
    text = "".join(Page(render(evaluation)).text)
    assert text.count(told) == 2  # in the summary, and where the strategies are
    assert "See whether another strategy" not in text
    evaluation["compare"] = {"budget_minutes": 30, "left_out": []}
    assert "All wanted strategies fit into compare.budget_minutes=30." in "".join(Page(render(evaluation)).text)


def test_page_compares_by_the_metrics_that_chose_the_champion() -> None:
    evaluation = make_evaluation(["a", "b"], strategies=2, n=40)
    labels = np.repeat([0, 1], [36, 4])
    probabilities = np.tile([0.8, 0.2], (40, 1))
    evaluation["strategies"]["strategy_1"]["validation"] = measure(probabilities, labels, ["a", "b"])
    for balanced, shown, hidden in (
        (False, ("90.0", "0.362"), ("50.0", "0.916")),
        (True, ("50.0", "0.916"), ("0.362",)),
    ):
        text = render({**evaluation, "balanced": balanced}).split('id="strategies"')[1].split("</table>")[0]
        row = text.split("strategy_1")[-1]
        assert ("balanced accuracy" in text) == balanced
        assert all(value in row for value in shown)
        assert not any(value in row for value in hidden)


def test_page_calls_the_interval_what_it_is() -> None:
    text = "".join(Page(render(make_evaluation(["a", "b"]))).text)
    assert "95 % confidence interval of the accuracy on other images of the same kind" in text
    assert "expect " not in text


@pytest.mark.parametrize(("refitted", "told"), [((True, False), True), ((True, True), False), ((False, None), False)])
def test_page_says_which_strategies_learned_from_validation_too(
    refitted: tuple[bool | None, bool | None], told: bool
) -> None:
    evaluation = make_evaluation(["a", "b"], strategies=2)
    for one, again in zip(evaluation["strategies"].values(), refitted, strict=True):
        one["training"] = (
            {**one["training"]} if again is None else {**one["training"], "refitted_with_validation": again}
        )
    text = "".join(Page(render(evaluation)).text)
    sentence = "Then strategy_0 was trained again on train and validation together; strategy_1 was not"
    assert (sentence in text) == told


def test_page_says_which_classes_have_no_held_out_image() -> None:
    evaluation = make_evaluation(["ants", "bees", "<wasps>"])
    assert "have no" not in render(evaluation)
    evaluation["data"]["classes"]["<wasps>"]["test"] = 0
    evaluation["data"]["classes"]["ants"]["test"] = 0
    evaluation["data"]["classes"]["bees"]["validation"] = 0
    text = "".join(Page(render(evaluation)).text)
    assert "2 of 3 classes have no test image (ants, <wasps>): no metric covers such images." in text
    assert "1 of 3 classes has no validation image (bees): no choice considers such images." in text


def test_page_does_not_say_that_all_choices_are_made_on_validation() -> None:
    assert "validation: used for choices" in "".join(Page(render(make_evaluation(["a", "b"]))).text)


def test_page_without_mistakes_says_so() -> None:
    evaluation = make_evaluation(["a", "b"])
    labels = np.array([0, 1, 1])
    evaluation["strategies"]["strategy_0"]["test"] = measure(np.eye(2)[labels], labels, ["a", "b"])
    evaluation["mistakes"] = evaluation["why"]["mistakes"] = []
    html = render(evaluation)
    assert "No mistakes" in html
    assert "<img" not in html.split('id="mistakes"')[1].split("</section>")[0]


def test_page_explains_mistakes_and_right_answers() -> None:
    evaluation = make_evaluation(["ants", "bees"])
    html = render(evaluation)
    mistakes, right = (html.split(f'id="{part}"')[1].split("</section>")[0] for part in ("mistakes", "why"))
    shown = len(evaluation["mistakes"])
    assert shown
    assert mistakes.count('alt="Map: lower right speaks most for ') == shown
    assert mistakes.count("Most like it in training:") == shown
    assert right.count("<img ") == 2
    assert "rather than" in right


def test_page_shows_weak_slices_and_says_if_there_are_none() -> None:
    evaluation = make_evaluation(["dark", "b"])
    html = render(evaluation).split('id="weak"')[1].split("</section>")[0]
    assert "8 of 20 wrong" in html
    assert "40.0\u00a0%" in html
    assert "in 15 groups" in html
    assert html.count("<img ") == 2
    for weak, told in (
        ({"n": 60, "wrong": 9, "tested": 3, "slices": []}, "3 kinds of images were compared"),
        ({"n": 60, "wrong": 0, "tested": 0, "slices": []}, "0 of 60 test images are wrong"),
    ):
        assert told in render({**evaluation, "weak": weak})


def test_page_shows_worse_images_only_if_they_were_tried() -> None:
    evaluation = make_evaluation(["a", "b"])
    html = render(evaluation).split('id="what_if"')[1].split("</section>")[0]
    assert html.count("<svg ") == 2
    assert html.count("<img ") == 6
    assert "360 images through the network" in html
    assert 'id="what_if"' not in render({**evaluation, "what_if": None})


def test_page_names_the_classes_without_a_test_image() -> None:
    evaluation = make_evaluation(list("abcdefgh"))
    text = "".join(Page(render(evaluation)).text)
    assert "No test image belongs to h: the accuracy says nothing about it." in text
    champion = evaluation["strategies"][evaluation["champion"]]
    for label in "bcdefg":
        champion["test"]["per_class"][label].update(support=0, recall=None)
    text = "".join(Page(render(evaluation)).text)
    assert "No test image belongs to b, c, d, e, f and 2 more classes: the accuracy says nothing about them." in text


def test_page_draws_the_training_history() -> None:
    evaluation = make_evaluation(["a", "b"])
    history = {"loss": [1.0, 0.5], "val_loss": [1.1, float("nan")], "accuracy": [0.5, 0.9], "val_accuracy": [0.5, 0.8]}
    evaluation["strategies"]["strategy_0"]["training"] = {"history": history}
    assert "Loss after each epoch" in render(evaluation)
    assert "nan" not in render(evaluation)


def test_page_warns_when_the_model_is_not_better_than_the_baseline() -> None:
    evaluation = make_evaluation(["a", "b"])
    labels = np.array([0] * 9 + [1])
    evaluation["strategies"]["strategy_0"]["test"] = measure(np.tile([0.6, 0.4], (10, 1)), labels, ["a", "b"])
    assert "not clearly above the majority-class baseline" in render(evaluation)


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        ({}, "used without change"),
        ({"trained_further": "block4, block5"}, "changed: trained further here (block4, block5)"),
    ],
)
def test_page_says_whether_the_licensed_weights_were_changed(backbone: dict[str, str], told: str) -> None:
    evaluation = make_evaluation(["a", "b"])
    evaluation["strategies"]["strategy_0"]["backbone"] = backbone
    assert f"as distributed with Keras, {told}." in render(evaluation)


def test_page_shows_how_surely_foreign_images_are_told() -> None:
    evaluation = make_evaluation(["ant", "bee"])
    section = render(evaluation).split('id="foreign"')[1].split("</section>")[0]
    text = " ".join("".join(Page(section).text).split())
    assert "ViM" in text
    assert "5.0 % of 40 test images are called foreign although they belong to a class" in text
    assert "2.0 % to 8.0 %" in text
    assert "a probability of 75 %" in text
    assert "Don't rely on it" in text
    assert section.count("<img") == 2
    evaluation["foreign"] = None
    assert 'id="foreign"' not in render(evaluation)
