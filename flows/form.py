"""The form of a flow: one parameter for each block of params.yaml, made from the schema of the settings.

No field is required, and no field has a default: an empty field means the value in params.yaml at the commit that runs.
The help of each field ends with the value in params.yaml at the time when the flow was deployed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, get_origin

import typing_extensions  # pydantic wants its TypedDict before Python 3.12
from annotated_types import MinLen
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from tasks.errors import SettingsError
from tasks.params import load_settings
from tasks.settings import Settings

FIRST = ("source", "strategies", "train")
"""The blocks that people change most; the others follow in the order of params.yaml."""

Function = TypeVar("Function", bound=Callable[..., Any])
_TypedDict: Any = typing_extensions.TypedDict


def settings_form(function: Function) -> Function:
    """Turn the `**changes` of a flow's function into one parameter for each block of settings.

    Prefect shows them as groups of fields, with dropdowns and help, and checks types and bounds before the flow starts.
    The function gets a nested mapping.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    present = _present(Path(inspect.getfile(function)).parents[1])
    names = sorted(Settings.model_fields, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    blocks = [_parameter(name, Settings.model_fields[name], present) for name in names]
    function.__signature__ = signature.replace(parameters=[*blocks, *own])  # type: ignore[attr-defined]
    return function


def filled_in(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a form without the blocks that nobody filled in: Prefect sends those as empty."""
    return {name: value for name, value in changes.items() if value not in ([], (), {})}


def _parameter(name: str, field: FieldInfo, present: Mapping[str, Any]) -> inspect.Parameter:
    model = _block(field)
    # Prefect sends a list outside a block as empty if nobody filled it in, so the form can't check its minimum length.
    rules = [rule for rule in field.metadata if not isinstance(rule, MinLen)]
    kind = _optional(model, present.get(name, {})) if model else Annotated[(field.annotation, Field(), *rules)]
    nothing: Any = [] if get_origin(field.annotation) in (list, tuple) else {}
    default = Field(nothing, description=_help(name, field, present))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _optional(model: type[BaseModel], present: Mapping[str, Any]) -> Any:
    """The model with all of its fields optional."""
    hints = {}
    for name, field in model.model_fields.items():
        inner = _block(field)
        kind: Any = _optional(inner, present.get(name, {})) if inner else field.annotation
        if kind is bool:
            kind = Literal[True, False]  # a dropdown can stay empty; a switch is always on or off
        shown = Field(title=name, description=_help(name, field, present))
        hints[name] = NotRequired[Annotated[(kind, shown, *field.metadata)]]
    made = _TypedDict(model.__name__, hints, total=False)
    made.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}
    return made


def _block(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _help(name: str, field: FieldInfo, present: Mapping[str, Any]) -> str | None:
    model = _block(field)
    if model or name not in present:
        return model.__doc__ if model else field.description
    value = present[name]
    return f"{field.description} (params.yaml: {value if isinstance(value, str) else json.dumps(value)})"


def _present(workspace: Path) -> dict[str, Any]:
    try:
        return load_settings(workspace).model_dump(mode="json")
    except SettingsError:
        return {}  # the form shows no present values; the run reports the error
