"""The file params.yaml: its only reader and writer, and the one parser of settings as people type them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from tasks.errors import SettingsError, ask, closest, did_you_mean
from tasks.files import write_bytes
from tasks.settings import STRATEGIES, Settings
from tasks.workspace import PARAMS

_YAML_END = "...\n"

_RENAMED = {
    "prepare.min_pictures_per_class": "prepare.min_images_per_class",
    "views": "augmentation",
    "train.flip_averaging": "train.test_time_augmentation",
    "train.modern.head_replacement.head_rate": "train.modern.head_replacement.head_learning_rate",
    "train.modern.fine_tuning.head_rate": "train.modern.fine_tuning.head_learning_rate",
    "train.modern.fine_tuning.block_rate": "train.modern.fine_tuning.block_learning_rate",
    "train.modern.fine_tuning.block_decay": "train.modern.fine_tuning.learning_rate_decay",
    "train.modern.progressive.head_rate": "train.modern.progressive.head_learning_rate",
    "train.modern.progressive.block_rate": "train.modern.progressive.block_learning_rate",
    "train.modern.progressive.block_decay": "train.modern.progressive.learning_rate_decay",
    "export.parity_pictures": "export.parity_images",
    "run.placement": "run.work_pools",
}
"""Old name of a setting -> its present name; the error about an old name uses it."""
_REMOVED = ("train.modern.label_smoothing", "train.modern.weight_decay")


def load_settings(workspace: Path) -> Settings:
    """Read and check `workspace`/params.yaml.

    Raises:
        SettingsError: the file is missing, is not YAML, or values are not allowed; the message lists all of them.
    """
    path = workspace / PARAMS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"{path} doesn't exist. Run from the project's root, or restore it: git checkout {PARAMS}"
        ) from None
    except UnicodeDecodeError as error:
        raise _unreadable(str(path), error) from None
    return parse_settings(text, str(path))


def parse_settings(text: str, where: str) -> Settings:
    """Check the text of a params.yaml; `where` names it in errors. Raises SettingsError as `load_settings` does."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _unreadable(where, error) from None
    return check_settings(values, where)


def _unreadable(where: str, error: Exception) -> SettingsError:
    return SettingsError(f"{where} is not readable YAML: {error}. Restore it: git checkout {PARAMS}")


def check_settings(values: Any, where: str = PARAMS) -> Settings:
    """Turn plain values into Settings, or raise a SettingsError that lists all problems."""
    if not isinstance(values, dict):
        raise SettingsError(f"{where} must hold blocks of settings. Received: {type(values).__name__}")
    try:
        return Settings.model_validate(values)
    except pydantic.ValidationError as error:
        renamed = {_RENAMED.get(".".join(map(str, problem["loc"]))) for problem in error.errors()}
        told = [problem for problem in error.errors() if ".".join(map(str, problem["loc"])) not in renamed]
        problems = [_explain(problem) for problem in told]  # without the new name of an old setting as "missing"
        raise SettingsError(f"{where}:\n  " + "\n  ".join(problems)) from None


def change_settings(
    workspace: Path,
    changes: Mapping[str, Any],
    check: Callable[[Settings], Mapping[str, Any] | None] | None = None,
    base: str | None = None,
) -> Settings:
    """Write changes into params.yaml, all at once, and keep its comments. All settings are checked first.

    Args:
        workspace: folder with params.yaml.
        changes: the settings that should differ, nested as in params.yaml: {"train": {"recipe": "tutorial"}}.
        check: called with the new settings before they are written; if it raises, params.yaml is unchanged. What it
            returns is changed, too.
        base: text of params.yaml to change and write; None: the file's own.

    Raises:
        SettingsError: a name is not a setting, or a value is not allowed; params.yaml is unchanged.
    """
    from ruamel.yaml import YAML  # only changes need it

    path = workspace / PARAMS
    if base is None:
        load_settings(workspace)
    else:
        parse_settings(base, f"{PARAMS} of the last commit")
    editor = YAML()
    editor.width = 4096
    # A subclass, because representers belong to a class, and DVC writes dvc.lock with ruamel's own in this process.
    editor.Representer = type("Representer", (editor.Representer,), {})
    editor.representer.add_representer(type(None), _write_null)
    document = editor.load(path.read_text(encoding="utf-8") if base is None else base)
    changed = _merge(document, _plain(changes))  # a form has tuples; YAML has lists only
    settings = check_settings(_plain(document), "SET")
    more = check(settings) if check is not None else None
    if more:
        changed = _merge(document, _plain(more)) or changed
        settings = check_settings(_plain(document), "SET")
    if changed:
        text = io.BytesIO()
        editor.dump(document, text)
        write_bytes(path, text.getvalue())
    elif base is not None and path.read_bytes() != base.encode():
        write_bytes(path, base.encode())
    return settings


def parse_changes(assignments: Iterable[str]) -> dict[str, Any]:
    """Assignments as people type them -> changes for `change_settings`.

    Args:
        assignments: such as `train.recipe=tutorial`, `strategies=[feature_extraction]`; values are YAML.

    Raises:
        SettingsError: one has no `=`, its value is not YAML, or it contradicts one before it.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise SettingsError(f"SET takes block.key=value. Received: {assignment!r}")
        *blocks, key = name.strip().split(".")
        block: Any = changes
        for one in blocks:
            block = block.setdefault(one, {}) if isinstance(block, dict) else None
        if not isinstance(block, dict) or isinstance(block.get(key), dict):
            raise SettingsError(f"SET has a whole block and a setting of the same block: {name.strip()} is in both.")
        try:
            block[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"The value of {name.strip()} is not YAML: {error}") from None
    return changes


def parse_strategies(text: str) -> list[str]:
    """`all`, a name, or several with commas -> a list of known strategies.

    Raises:
        SettingsError: a name is unknown; the message lists the known ones.
    """
    if text.strip() == "all":
        return list(STRATEGIES)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown or not names:
        raise SettingsError(
            f"STRATEGY must be one of {', '.join(STRATEGIES)}, several with commas, or all. "
            f"Received: {', '.join(unknown) or repr(text)}."
            + "".join(did_you_mean(name, [*STRATEGIES, "all"]) for name in unknown)
        )
    return list(dict.fromkeys(names))


def flatten(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings -> dotted name -> value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flatten(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def format_assignment(name: str, value: Any) -> str:
    """A setting as people type it in SET; the inverse of `parse_changes`."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return f"{name}={text.removesuffix(_YAML_END).strip()}"


def _merge(block: Any, changes: Mapping[str, Any], above: str = "") -> bool:
    """Write changes into a block of params.yaml. Returns whether that changed it."""
    changed = False
    for name, value in changes.items():
        known = name in block
        if known and isinstance(block[name], Mapping) and isinstance(value, Mapping):
            changed |= _merge(block[name], value, f"{above}{name}.")
        elif not known or (isinstance(value, Mapping) and value):
            raise _unknown(f"{above}{name}", value, block)
        elif _plain(block[name]) != value:
            block[name] = _in_one_line(value)
            changed = True
    return changed


def _unknown(name: str, value: Any, known: Iterable[str]) -> SettingsError:
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    if new := _new_name(name):
        return SettingsError(f"{name} is called {new} now.")
    return SettingsError(f"There is no setting {name!r}.{ask(_meant(name))} Known here: {', '.join(known)}")


def _meant(name: str) -> list[str]:
    """The setting with the most similar name, or else all settings whose last part is the most similar."""
    known = list(_names(Settings))
    if found := closest(name, known):
        return found
    keys = closest(name.rpartition(".")[2], [one.rpartition(".")[2] for one in known])
    return sorted(one for one in known if one.rpartition(".")[2] in keys)


def _names(model: type[pydantic.BaseModel], above: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
            yield from _names(kind, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _new_name(name: str) -> str | None:
    """The present name of a setting, if it or its block was renamed."""
    block, _, key = name.rpartition(".")
    if name in _RENAMED or not block:
        return _RENAMED.get(name)
    return f"{new}.{key}" if (new := _new_name(block)) else None


def _in_one_line(value: Any) -> Any:
    """A list in the style of params.yaml: [a, b]."""
    from ruamel.yaml.comments import CommentedSeq

    if not isinstance(value, list):
        return value
    written = CommentedSeq(value)
    written.fa.set_flow_style()
    return written


def _write_null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")  # not an empty value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if where in _RENAMED:
        return f"{where}: is called {_RENAMED[where]} now. Rename it in {PARAMS}"
    if where in _REMOVED:
        return f"{where}: was removed, because it didn't help. Delete it from {PARAMS}"
    received = problem["input"]
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where}: is missing. Restore it: git checkout {PARAMS}"
    if problem["type"] == "extra_forbidden":
        return f"{where}: There is no such setting.{ask(_meant(where))}"
    if isinstance(received, dict) or not where:
        return f"{where}: {text}" if where else text
    return f"{where}: {text}. Received: {received!r}.{did_you_mean(str(received), _allowed(problem))}"


def _allowed(problem: Any) -> list[str]:
    """The words that a setting may be, as far as they can be listed."""
    if problem["type"] == "bool_parsing":
        return ["true", "false"]
    return re.findall(r"'([^']*)'", problem["ctx"]["expected"]) if problem["type"] == "literal_error" else []
