"""Which module imports which, and a drawing of it: `docs/images/imports.svg`, without arrows that follow from others."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path

from handbook.what_runs_again import PROJECT

PAGE = PROJECT / "docs/images/imports.svg"
ROOMS = ("images", "vgg", "reports", "scoring", "serving", "watching", "runs")
STAGES = ("tasks.stages", "tasks.progress_artifacts")
GROUND = (
    *(
        f"tasks.{name}"
        for name in ("workspace", "params", "settings", "settings_block", "errors", "files", "parallel", "progress")
    ),
    *(f"tasks.{name}" for name in ("scores", "markdown_tables")),
    "tasks.vgg.strategies",  # a strategy declares its settings, so the settings import it
)
LEVELS = ("flows", "stages", "programs", "rooms", "ground")
"""From the top to the bottom; a module imports from its own level and those below."""
ABOUT = {
    "flows": "when and where: Prefect",
    "stages": "one Prefect task a stage",
    "programs": "stages, and programs for people",
    "images": "sources, decoding, splits, shards",
    "vgg": "VGG16, training, exports",
    "reports": "metrics, charts, pages",
    "scoring": "rows of scored images",
    "serving": "the HTTP server",
    "watching": "have the images changed?",
    "runs": "children, worktrees, versions, DVC",
    "ground": "paths, settings, errors, files",
}
_WIDE, _HIGH, _GAP, _ROW, _EDGE, _SIDE = 222, 54, 22, 96, 16, 70
_STYLE = """
  .card { fill: #ffffff; }
  .box { fill: #e0f2f1; stroke: #00695c; stroke-width: 1.5; }
  .name { font: 600 15px sans-serif; fill: #00332c; text-anchor: middle; }
  .about { font: 12px sans-serif; fill: #333333; text-anchor: middle; }
  .arrow { stroke: #546e7a; stroke-width: 1.3; fill: none; marker-end: url(#tip); }
"""
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#546e7a"/></marker></defs>'
)


@cache
def modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    files = [file for folder in ("flows", "tasks") for file in (PROJECT / folder).rglob("*.py")]
    return {".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(node: ast.AST) -> Iterator[str]:
    """The names that a piece of code imports, inside functions too, but not what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.module is not None, "a relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield from imports(child)


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports(ast.parse(modules()[module].read_text(encoding="utf-8"))))


@cache
def own_imports(module: str) -> frozenset[str]:
    """The modules of the project that a module imports."""
    found = set()
    for name in imported(module):
        parts = name.split(".")
        known = (".".join(parts[:length]) for length in (len(parts), len(parts) - 1))
        found |= {next((one for one in known if one in modules()), module)}
    return frozenset(found - {module})


def is_in(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def room(module: str) -> str | None:
    return next((room for room in ROOMS if is_in(module, f"tasks.{room}")), None)


def level(module: str) -> str:
    if is_in(module, "flows"):
        return "flows"
    if module in STAGES:
        return "stages"
    if module == "tasks" or any(is_in(module, place) for place in GROUND):
        return "ground"
    return "rooms" if room(module) else "programs"


def box_of(module: str) -> str:
    """The box of the drawing in which a module is."""
    here = level(module)
    return room(module) or here if here == "rooms" else here


@cache
def arrows() -> Mapping[str, frozenset[str]]:
    """Box -> boxes from which its modules import, without those that it reaches through another one."""
    direct: dict[str, set[str]] = {name: set() for name in ABOUT}
    for module in modules():
        here = box_of(module)
        direct[here] |= {there for other in own_imports(module) if (there := box_of(other)) != here}

    @cache
    def reached(box: str) -> frozenset[str]:
        return frozenset(direct[box]).union(*(reached(other) for other in direct[box]))

    return {
        box: frozenset(one for one in others if not any(one in reached(other) for other in others - {one}))
        for box, others in direct.items()
    }


def rows() -> list[list[str]]:
    """The boxes from the top to the bottom; a box is just above those from which it imports."""

    def height(box: str) -> int:
        return max((height(other) + 1 for other in arrows()[box]), default=0)

    highest = max(map(height, ABOUT))
    return [[box for box in ABOUT if height(box) == highest - number] for number in range(highest + 1)]


def page() -> str:
    """The drawing."""
    wide = max(len(row) for row in rows()) * (_WIDE + _GAP) - _GAP + 2 * (_EDGE + _SIDE)
    high = len(rows()) * _ROW - (_ROW - _HIGH) + 2 * _EDGE
    at: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows()):
        begin = (wide - len(row) * (_WIDE + _GAP) + _GAP) / 2
        at |= {box: (begin + place * (_WIDE + _GAP), _EDGE + number * _ROW) for place, box in enumerate(row)}
    lines = [_arrow(at[box], at[other]) for box in ABOUT for other in sorted(arrows()[box])]
    boxes = [_box(box, *at[box]) for box in ABOUT]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img" aria-label="Who imports whom">',
            f"<!-- Made from the code: make reference -->\n<style>{_STYLE}</style>",
            _TIP,
            f'<rect class="card" width="{wide}" height="{high}" rx="8"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def _box(box: str, x: float, y: float) -> str:
    name = "flows/" if box == "flows" else f"tasks/{box}/" if box in ROOMS else box
    return (
        f'<rect class="box" x="{x:g}" y="{y:g}" width="{_WIDE}" height="{_HIGH}" rx="6"/>'
        f'<text class="name" x="{x + _WIDE / 2:g}" y="{y + 23:g}">{escape(name)}</text>'
        f'<text class="about" x="{x + _WIDE / 2:g}" y="{y + 42:g}">{escape(ABOUT[box])}</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight arrow to the next row, or one that goes around the rows between."""
    (x, y), (to_x, to_y) = start, end
    if to_y - y > _ROW:
        x, y, to_x, to_y = x + _WIDE, y + _HIGH / 2, to_x + _WIDE + 2, to_y + _HIGH / 2
        return f'<path class="arrow" d="M{x:g} {y:g}C{x + 420:g} {y:g} {to_x + 300:g} {to_y:g} {to_x:g} {to_y:g}"/>'
    x, y, to_x = x + _WIDE / 2, y + _HIGH, to_x + _WIDE / 2
    near = (to_x - x) * 0.12
    return f'<path class="arrow" d="M{x + near:g} {y:g}L{to_x - near:g} {to_y - 2:g}"/>'
