"""The page of all settings: type, bounds, default, description, and what a change makes run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from handbook.markdown import NOTE, code, table
from handbook.what_runs_again import PROJECT, first_stages
from tasks.settings import Settings

PAGE = PROJECT / "docs/reference/settings.md"
TEXT = """# All settings

{note}How to change them: [What can I set, and how?](../settings.md) The defaults are those of [`params.yaml`](../../params.yaml). The last
column says what a change makes run again at once; [the stages after that](../settings.md) follow if an output changed.
"""
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
_NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def page() -> str:
    schema = Settings.model_json_schema()
    values = yaml.safe_load((PROJECT / "params.yaml").read_text())
    text = TEXT.format(note=NOTE)
    for block, field in schema["properties"].items():
        model = _resolve(field, schema)
        about = f"\n{model['description']}\n" if "properties" in model else ""
        rows = list(_rows(block, field, values[block], schema))
        text += f"\n## {block}\n{about}\n" + table(
            ("setting", "type and bounds", "default", "meaning", "runs again"), rows
        )
    return text


def _rows(name: str, field: dict[str, Any], value: Any, schema: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    model = _resolve(field, schema)
    if "properties" in model:
        for key, inner in model["properties"].items():
            yield from _rows(f"{name}.{key}", inner, value[key], schema)
        return
    default = code(json.dumps(value, ensure_ascii=False).strip('"'))
    yield code(name), describe(model), default, model.get("description", ""), first_stages(name)


def _resolve(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    place = field.get("$ref") or next(iter(field.get("allOf", [{}]))).get("$ref")
    return {**schema["$defs"][place.rpartition("/")[2]], **field} if place else field


def describe(field: dict[str, Any]) -> str:
    """Type and bounds of a field of a JSON schema, in words."""
    if "enum" in field:
        return ", ".join(code(one) for one in field["enum"])
    if "const" in field:
        return code(field["const"])
    if "anyOf" in field:
        return " or ".join(describe(one) for one in field["anyOf"])
    if field["type"] == "array":
        inner = field.get("prefixItems") or [field["items"]]
        return f"{len(inner) if 'prefixItems' in field else 'list'} of: {describe(inner[0])}"
    bounds = [text.format(f"{field[key]:,}") for key, text in _BOUNDS.items() if key in field]
    return " ".join([_NAMES[field["type"]], ", ".join(bounds)]).strip()
