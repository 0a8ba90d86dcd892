"""Program `find_rate`: finds learning rates for these images, and draws the losses.

    python -m tasks.find_rate progressive [--steps 60]

Reads the outputs of `features`. Trains the strategy's first phase for some steps while all of its learning rates rise,
and throws the weights away. Writes `reports/learning_rate.html` and prints the suggested learning rates, and whether
any rate lowers the loss. Changes no setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import SettingsError
from tasks.files import write_bytes
from tasks.params import load_settings
from tasks.program import run_program
from tasks.progress import Progress
from tasks.reports import charts, html
from tasks.reports.chart_frame import Series
from tasks.settings import STRATEGIES, Settings
from tasks.train import read_material
from tasks.vgg.strategies import plan_phases
from tasks.workspace import LEARNING_RATE_PAGE, Workspace

NOTHING_FALLS = (
    "No learning rate lowers the loss in these steps by more than chance; this is usual where training begins with a "
    "fitted head. The suggested rates are a tenth of those at which the loss begins to rise: larger ones may do harm. "
    "Whether these help, only a training can show."
)


@dataclass(frozen=True)
class Suggestion:
    """Learning rates of the head and of each unfrozen block, and whether any learning rate lowers the loss."""

    rates: dict[str, float]
    falls: bool


def run(settings: Settings, workspace: Workspace, strategy: str, steps: int) -> Suggestion:
    """Try learning rates, and draw the losses.

    Raises:
        SettingsError: the strategy's recipe has no learning rate.
        IntegrityError: an earlier stage's output is missing or damaged.
    """
    phases = plan_phases(strategy, settings.train, settings.augmentation)
    if not phases:
        raise SettingsError(
            f"{strategy} with the recipe {settings.train.recipe} has no learning rate: its optimum is computed exactly."
        )
    from tasks.vgg.training.gradient_training import set_up

    material = read_material(settings, workspace, strategy)
    _, training, begin = set_up(settings, material, workspace.temporary / "find_rate", lambda _: None)
    from tasks.vgg.training.learning_rate_finder import suggest, try_learning_rates

    points = []
    with Progress("find_rate", steps, "steps") as progress:
        for factor, loss in try_learning_rates(training, begin, steps):
            points.append((factor, loss))
            progress.advance(details={"factor": factor, "loss": loss})
    curve = suggest(points)
    phase = phases[0]  # with the learning rates of params.yaml
    found = {name: rate * curve.suggested for name, rate in phase.learning_rates.items()}
    series = Series("loss", curve.factors, curve.losses)
    chart = charts.line_chart([series], "factor on the learning rates", "loss", log_x=True, marked_x=curve.suggested)
    rates = [(name, phase.learning_rates[name], rate) for name, rate in found.items()]
    note = "" if curve.falls else NOTHING_FALLS
    page = html.render("learning_rate.html.jinja", strategy=strategy, chart=chart, rates=rates, note=note)
    write_bytes(workspace.folder / LEARNING_RATE_PAGE, page.encode())
    return Suggestion(found, curve.falls)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks.find_rate", description="Find learning rates.")
    parser.add_argument("strategy", choices=STRATEGIES)
    parser.add_argument("--steps", type=int, default=60, help="training steps, each at higher learning rates")
    options = parser.parse_args(arguments)

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        found = run(load_settings(workspace.folder), workspace, options.strategy, max(2, options.steps))
        for name, rate in found.rates.items():
            print(f"{name}: {rate:.2g}")
        if not found.falls:
            print(NOTHING_FALLS)
        print(f"See {LEARNING_RATE_PAGE}")

    return run_program(body)


if __name__ == "__main__":
    raise SystemExit(main())
