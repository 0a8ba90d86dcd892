"""The form is made from the settings' schema: every setting with bounds, choices and help; it sends only changes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from flows.form import FIRST, filled_in, settings_form
from tasks.params import change_settings, load_settings
from tasks.settings import Settings
from tests.conftest import PROJECT


@settings_form
def example(*, workspace: str = ".", **changes: Any) -> dict[str, Any]:
    """A flow's function, in a file whose grandparent folder has no params.yaml."""
    return {"workspace": workspace, **changes}


def parameters(function: Any = example) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def schema(block: str, function: Any = example) -> dict[str, Any]:
    return TypeAdapter(parameters(function)[block].annotation).json_schema()


def pipeline_function() -> Any:
    from flows.pipeline_flow import pipeline

    return pipeline.fn


def test_form_has_a_parameter_for_each_block_the_most_wanted_first() -> None:
    assert sorted(parameters()) == sorted([*Settings.model_fields, "workspace"])
    assert list(parameters())[: len(FIRST)] == list(FIRST)
    assert list(parameters())[-1] == "workspace"


def test_form_has_every_setting_requires_none_and_has_no_defaults() -> None:
    def check(shown: dict[str, Any], model: Any, definitions: dict[str, Any]) -> None:
        assert list(shown["properties"]) == list(model.model_fields)
        assert "required" not in shown
        for name, field in model.model_fields.items():
            entry = shown["properties"][name]
            assert "default" not in entry
            assert entry["title"] == name
            if hasattr(field.annotation, "model_fields"):
                check(definitions[entry["$ref"].rsplit("/", 1)[1]], field.annotation, definitions)

    for block, field in Settings.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            check(schema(block), field.annotation, schema(block).get("$defs", {}))


def test_form_keeps_bounds_choices_and_help() -> None:
    assert schema("prepare")["properties"]["validation_fraction"] == {
        "title": "validation_fraction",
        "description": "share of the drawn images, held out for choices",
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
    }
    assert schema("train")["properties"]["recipe"]["enum"] == ["modern", "tutorial"]


def test_help_tells_what_params_yaml_says() -> None:
    settings = load_settings(PROJECT)
    shown = schema("train", pipeline_function())["properties"]
    assert shown["recipe"]["description"].endswith(f"(params.yaml: {settings.train.recipe})")
    limit = schema("source", pipeline_function())["properties"]["limit_per_class"]
    shown_limit = "null" if settings.source.limit_per_class is None else settings.source.limit_per_class
    assert limit["description"].endswith(f"(params.yaml: {shown_limit})")


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("train", {"recipe": "magic"}),
        ("train", {"tutorial": {"epochs": 0}}),
        ("prepare", {"test_fraction": 1.0}),
        ("prepare", {"surprise": 1}),
        ("strategies", ["guessing"]),
    ],
)
def test_form_refuses_what_the_settings_refuse(block: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(parameters()[block].annotation).validate_python(value)


def test_form_left_alone_changes_nothing(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_bytes()
    blocks = {name: one.default.default for name, one in parameters().items() if name != "workspace"}
    assert set(map(repr, blocks.values())) == {"{}", "[]"}
    assert filled_in(blocks) == {}
    change_settings(workspace, filled_in(blocks))
    assert (workspace / "params.yaml").read_bytes() == before


def test_lists_come_from_prefect_as_tuples(workspace: Path) -> None:
    def given(value: list[str]) -> dict[str, Any]:
        return {"strategies": TypeAdapter(parameters()["strategies"].annotation).validate_python(value)}

    assert filled_in(given([])) == {}
    change_settings(workspace, given(["progressive", "fine_tuning"]))
    assert load_settings(workspace).strategies == ("progressive", "fine_tuning")
    assert "strategies: [progressive, fine_tuning]" in (workspace / "params.yaml").read_text()


def test_what_a_form_gives_is_written_and_nothing_else(workspace: Path) -> None:
    before = load_settings(workspace).model_dump()
    changes = {"source": {"uri": "a: 'b' # é", "limit_per_class": None}, "train": {"tutorial": {"epochs": 7}}}
    change_settings(workspace, filled_in(changes))
    before["source"]["uri"] = "a: 'b' # é"
    before["train"]["tutorial"]["epochs"] = 7
    assert load_settings(workspace).model_dump() == before
