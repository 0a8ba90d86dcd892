"""params.yaml: every error is reported at once, and a change affects only its value."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tasks.errors import SettingsError
from tasks.params import (
    change_settings,
    check_settings,
    format_assignment,
    load_settings,
    parse_changes,
    parse_strategies,
)
from tasks.settings import STRATEGIES, Settings
from tasks.workspace import PARAMS
from tests import conftest


def values(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((workspace / PARAMS).read_text())
    return found


def test_settings_of_the_project_are_valid(workspace: Path) -> None:
    assert load_settings(workspace).prepare.shard_size == 256


def all_fields(model: Any) -> list[tuple[str, Any]]:
    """Every block and setting, with its field."""
    found = []
    for name, field in model.model_fields.items():
        found.append((name, field))
        if hasattr(field.annotation, "model_fields"):
            found += all_fields(field.annotation)
    return found


def test_settings_keep_no_second_set_of_defaults() -> None:
    assert [name for name, field in all_fields(Settings) if not field.is_required()] == []


def test_every_block_and_setting_is_described() -> None:
    fields = all_fields(Settings)
    blocks = {name: field.annotation for name, field in fields if hasattr(field.annotation, "model_fields")}
    assert [name for name, block in blocks.items() if not block.__doc__] == []
    assert [name for name, field in fields if name not in blocks and not field.description] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prepare": {"splitseed": 1}}, "prepare.splitseed"),
        ({"surprise": {}}, "surprise"),
        ({"prepare": {"shard_size": 0}}, "prepare.shard_size"),
        ({"prepare": {"validation_fraction": 1.0}}, "prepare.validation_fraction"),
        ({"prepare": {"min_entropy_bits": float("nan")}}, "prepare.min_entropy_bits"),
        ({"prepare": {"background_rgb": [0, 0, 256]}}, "prepare.background_rgb.2"),
        ({"source": {"uri": ""}}, "source.uri"),
        ({"train": {"recipe": "magic"}}, "'modern' or 'tutorial'"),
        ({"strategies": []}, "strategies"),
        ({"export": {"formats": ["saved_model"]}}, "needs saved_model (served) and onnx"),
    ],
)
def test_check_settings_names_what_is_wrong(workspace: Path, change: dict[str, Any], said: str) -> None:
    wrong = values(workspace)
    for block, settings in change.items():
        if isinstance(settings, dict):
            wrong[block] = {**wrong.get(block, {}), **settings}
        else:
            wrong[block] = settings
    with pytest.raises(SettingsError) as caught:
        check_settings(wrong)
    assert said in str(caught.value)


def test_check_settings_lists_all_problems_with_what_was_received(workspace: Path) -> None:
    wrong = values(workspace)
    wrong["prepare"]["shard_size"] = -7
    wrong["features"]["engine"] = "magic"
    del wrong["run"]["stage_retries"]
    with pytest.raises(SettingsError) as caught:
        check_settings(wrong)
    text = str(caught.value)
    assert "prepare.shard_size" in text
    assert "Received: -7" in text
    assert "'auto', 'ncnn' or 'tensorflow'" in text
    assert "Received: 'magic'" in text
    assert "run.stage_retries: is missing" in text


def test_check_settings_refuses_fractions_that_leave_nothing_to_train_on(workspace: Path) -> None:
    wrong = values(workspace)
    wrong["prepare"].update(validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(SettingsError, match="must leave images to train on"):
        check_settings(wrong)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategies": [STRATEGIES[0], STRATEGIES[0]]}, "name each strategy once"),
        ({"features": {"engine": "ncnn", "precision": "bfloat16"}}, "computes in float32"),
    ],
)
def test_check_settings_refuses_what_does_not_go_together(workspace: Path, change: dict[str, Any], said: str) -> None:
    wrong = values(workspace)
    for block, settings in change.items():
        wrong[block] = {**wrong[block], **settings} if isinstance(settings, dict) else settings
    with pytest.raises(SettingsError, match=said):
        check_settings(wrong)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_check_settings_refuses_numbers_that_are_not_finite(workspace: Path, value: float) -> None:
    wrong = values(workspace)
    wrong["train"]["tutorial"]["learning_rate"] = value
    with pytest.raises(SettingsError, match="learning_rate"):
        check_settings(wrong)


@pytest.mark.parametrize(
    "content", [b"source: [unclosed", b"\xff\xfe\x00", b"- a\n- list\n", b"", b"a: !!python/none x"]
)
def test_load_settings_explains_a_file_that_holds_no_settings(workspace: Path, content: bytes) -> None:
    (workspace / PARAMS).write_bytes(content)
    with pytest.raises(SettingsError, match=PARAMS):
        load_settings(workspace)


def test_load_settings_runs_no_code_of_the_file(workspace: Path) -> None:
    trap = workspace / "trap"
    (workspace / PARAMS).write_text(f"a: !!python/object/apply:os.mkdir ['{trap}']")
    with pytest.raises(SettingsError, match="not readable YAML"):
        load_settings(workspace)
    assert not trap.exists()


def test_load_settings_says_where_a_missing_file_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"doesn't exist.*git checkout params.yaml"):
        load_settings(tmp_path)


def test_change_settings_keeps_every_other_line(workspace: Path) -> None:
    before = (workspace / PARAMS).read_text().splitlines()
    settings = change_settings(workspace, parse_changes(["prepare.shard_size=32", "source.uri=my images/über"]))
    after = (workspace / PARAMS).read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [old.split(":")[0].strip() for old, _ in changed] == ["uri", "shard_size"]
    assert all("#" in new and old.split("#")[1] == new.split("#")[1] for old, new in changed)
    assert (settings.prepare.shard_size, settings.source.uri) == (32, "my images/über")
    assert load_settings(workspace) == settings


@pytest.mark.parametrize("assignment", ["train.modern.inverse_regularization=[1.0]", "strategies=[]"])
def test_change_settings_keeps_the_comments_of_lists(workspace: Path, assignment: str) -> None:
    comments = [line.split("#")[1] for line in (workspace / PARAMS).read_text().splitlines() if "#" in line]
    if assignment == "strategies=[]":
        with pytest.raises(SettingsError, match="strategies"):
            change_settings(workspace, parse_changes([assignment]))
    else:
        change_settings(workspace, parse_changes([assignment]))
        assert load_settings(workspace).train.modern.inverse_regularization == (1.0,)
    after = [line.split("#")[1] for line in (workspace / PARAMS).read_text().splitlines() if "#" in line]
    assert after == comments


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("prepare.shard_size", "SET takes block.key=value"),
        (
            "prepare.shardsize=3",
            "no setting 'prepare.shardsize'. Did you mean prepare.shard_size? Known here: validation",
        ),
        ("nowhere.at_all=3", "no setting 'nowhere.at_all'. Known here: source, ingest"),
        ("strategies.0=fine_tuning", "There is no setting"),
        ("prepare.shard_size=many", "prepare.shard_size"),
        ("prepare.shard_size=[", "is not YAML"),
        ("train=5", "train"),
        ("train.seed={}", "train.seed"),
        (
            "train={seed: {deeper: 1}}",
            "no setting 'train.seed.deeper'. Known here: recipe, seed",
        ),
        ("source={limit_per_class: 1}", "a whole block and a setting of the same block"),
    ],
)
def test_change_settings_leaves_the_file_as_it_was_on_an_error(workspace: Path, assignment: str, said: str) -> None:
    before = (workspace / PARAMS).read_bytes()
    with pytest.raises(SettingsError) as caught:
        change_settings(workspace, parse_changes(["source.uri=elsewhere", assignment]))
    assert said in str(caught.value)
    assert (workspace / PARAMS).read_bytes() == before


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("trian.sed=1", "Did you mean train.seed?"),
        ("limit_per_clas=50", "Did you mean source.limit_per_class?"),
        ("train.clip_nrom=1", "Did you mean train.modern.clip_norm?"),
        ("train.modern.fine_tunning.blocks=1", "Did you mean train.modern.fine_tuning.blocks?"),
        ("train.patience=1", "Did you mean train.modern.patience?"),
        ("hidden_units=1", "Did you mean train.tutorial.hidden_units?"),
        ("train.epochs=3", "train.modern.head_replacement.epochs, train.modern.progressive.epochs or train.tutorial."),
        ("export={formts: [onnx]}", "Did you mean export.formats?"),
        ("train.recipe=tutoral", "Did you mean tutorial?"),
        ("train.recipe=Tutorial", "Did you mean tutorial?"),
        ("strategies=[fine_tunning]", "strategies.0: Input should be 'feature_extraction'"),
        ("strategies=[fine_tunning]", "Did you mean fine_tuning?"),
        ("export.formats=[onnx,savedmodel]", "Did you mean saved_model?"),
        ("train.deterministic=ture", "Did you mean true?"),
    ],
)
def test_misspelt_setting_or_value_gets_the_one_that_was_meant(workspace: Path, assignment: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        change_settings(workspace, parse_changes([assignment]))
    assert said in str(caught.value)


@pytest.mark.parametrize("assignment", ["nowhere.at_all=3", "train.recipe=magic", "train.recipe=7", "train.seed=x"])
def test_nothing_is_guessed_if_nothing_is_similar(workspace: Path, assignment: str) -> None:
    with pytest.raises(SettingsError) as caught:
        change_settings(workspace, parse_changes([assignment]))
    assert "Did you mean" not in str(caught.value)


def test_misspelt_setting_in_the_file_gets_the_one_that_was_meant(workspace: Path) -> None:
    wrong = values(workspace)
    wrong["train"]["modern"]["patiens"] = wrong["train"]["modern"].pop("patience")
    with pytest.raises(SettingsError) as caught:
        check_settings(wrong)
    assert "train.modern.patiens: There is no such setting. Did you mean train.modern.patience?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("progresive", "progressive"),
        ("al", "all"),
        ("ALL", "all"),
        ("progressiv,fine-tuning", r"progressive\? Did you mean fine_tuning"),
    ],
)
def test_misspelt_strategy_gets_the_one_that_was_meant(text: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"Did you mean {meant}\?"):
        parse_strategies(text)


def test_change_leaves_the_yaml_of_others_alone(workspace: Path) -> None:
    change_settings(workspace, parse_changes(["train.seed=1"]))
    text = io.StringIO()
    YAML().dump({"nothing": None}, text)  # as DVC writes dvc.lock
    assert text.getvalue() == "nothing:\n"


def test_change_settings_does_not_write_what_is_so_already(workspace: Path) -> None:
    before = (workspace / PARAMS).stat()
    change_settings(workspace, parse_changes(["prepare.shard_size=256", "source.limit_per_class=null"]))
    after = (workspace / PARAMS).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_parse_strategies_takes_all_one_and_several() -> None:
    assert parse_strategies("all") == list(STRATEGIES)
    assert parse_strategies(f" {STRATEGIES[0]}, {STRATEGIES[0]} ") == [STRATEGIES[0]]


@pytest.mark.parametrize("text", ["magic", f"{STRATEGIES[0]},magic", "", ","])
def test_parse_strategies_lists_the_known_ones(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_strategies(text)
    assert all(name in str(caught.value) for name in STRATEGIES)


def test_settings_can_not_be_changed_in_place(change: Callable[..., Settings]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        change().prepare.shard_size = 3  # type: ignore[misc]


def test_lists_stay_in_one_line_and_keep_what_stands_around_them(
    workspace: Path, change: Callable[..., Settings]
) -> None:
    change("strategies=[feature_extraction, progressive]")
    text = (workspace / "params.yaml").read_text()
    assert re.search(r"^strategies: \[feature_extraction, progressive\] *# also", text, re.MULTILINE)
    assert change("strategies=[feature_extraction]").strategies == ("feature_extraction",)
    written, original = ((folder / "params.yaml").read_text().split() for folder in (workspace, conftest.PARAMS.parent))
    assert written == original


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("prepare.min_pictures_per_class", "prepare.min_images_per_class"),
        ("views", "augmentation"),
        ("run.placement", "run.work_pools"),
        ("train.modern.progressive.block_rate", "train.modern.progressive.block_learning_rate"),
    ],
)
def test_old_name_of_a_setting_gets_the_new_one_and_nothing_else(workspace: Path, old: str, new: str) -> None:
    wrong = values(workspace)
    *above, last = new.split(".")
    block = wrong
    for name in above:
        block = block[name]
    block[old.rpartition(".")[2]] = block.pop(last)
    with pytest.raises(SettingsError) as caught:
        check_settings(wrong)
    assert str(caught.value).splitlines()[1:] == [f"  {old}: is called {new} now. Rename it in params.yaml"]


def test_removed_setting_is_to_be_deleted(workspace: Path) -> None:
    wrong = values(workspace)
    wrong["train"]["modern"]["label_smoothing"] = 0.1
    with pytest.raises(SettingsError) as caught:
        check_settings(wrong)
    assert str(caught.value).splitlines()[1:] == [
        "  train.modern.label_smoothing: was removed, because it didn't help. Delete it from params.yaml"
    ]


def test_assignment_by_an_old_name_gets_the_new_one(workspace: Path) -> None:
    with pytest.raises(SettingsError, match=r"views\.count is called augmentation\.count now"):
        change_settings(workspace, parse_changes(["views.count=2"]))


NAMES = st.text("abcdefgh_", min_size=1)
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1)))
def test_assignments_are_the_changes_that_they_spell(changes: dict[str, Any]) -> None:
    settings = {f"{block}.{name}": value for block, inner in changes.items() for name, value in inner.items()}
    assignments = [format_assignment(name, value) for name, value in settings.items()]
    assert parse_changes(assignments) == changes


def test_block_given_as_a_value_changes_what_it_names(workspace: Path) -> None:
    before = load_settings(workspace).model_dump()
    change_settings(workspace, parse_changes(["train={seed: 7, tutorial: {epochs: 3}}"]))
    before["train"]["seed"], before["train"]["tutorial"]["epochs"] = 7, 3
    assert load_settings(workspace).model_dump() == before


@pytest.mark.parametrize(
    "assignments", [["train=5", "train.seed=1"], ["train.seed=1", "train=5"], ["a.b=1", "a.b.c=1"], ["a=1", "a.b.c=1"]]
)
def test_block_and_a_setting_in_it_contradict_each_other(assignments: list[str]) -> None:
    with pytest.raises(SettingsError, match="a whole block and a setting of the same block"):
        parse_changes(assignments)
