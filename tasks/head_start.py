"""A head start: the stages of `make run` begin to work while Prefect is imported and its server starts.

The flow takes over each stage when its turn comes: it shows what the stage has said until then, waits for its end, and
gets its failure. From the stage on that still runs then, or has not begun, the flow starts all stages itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Self

from tasks.plan import Plan
from tasks.runs.accuracy_regression import read_metrics
from tasks.runs.costs import read_history
from tasks.runs.guarded_process import GRACE_S
from tasks.runs.stage_failure import StageFailed
from tasks.runs.supervisor import OnLine, OnProgress, bring_up_to_date
from tasks.runs.warm_dvc import WarmDvc
from tasks.settings import Settings
from tasks.workspace import Workspace

_END_S = GRACE_S + 20.0


def stages_in_order(settings: Settings) -> list[str]:
    """All stages, in the flow's order."""
    training = [f"train@{strategy}" for strategy in settings.strategies]
    return ["ingest", "prepare", "features", *training, "evaluate", "export"]


class HeadStart:
    """Brings stages up to date, one after the other, in a thread. Leaving the `with` block stops the one that works.

    Args:
        stages: in their order, as in dvc.yaml.
        workspace: with dvc.yaml.
        limit_s: the time limit of each stage, seconds.
        plan: of the run, made before it.
        warm: forks the processes of DVC.

    Attributes:
        plan: as given.
        costs_before: length of the history of costs before the first stage.
        metrics_before: those of the champion before the first stage; None if there is none.
    """

    def __init__(
        self, stages: Sequence[str], workspace: Workspace, limit_s: float, plan: Plan, warm: WarmDvc | None = None
    ) -> None:
        self._stages, self._workspace, self._limit_s, self.plan, self._warm = stages, workspace, limit_s, plan, warm
        self.costs_before = len(read_history(workspace))
        self.metrics_before = read_metrics(workspace)
        self._begun: dict[str, _Begun] = {}
        self._lock = threading.Lock()
        self._begins_more = self._is_wanted = True
        # A second Ctrl-C must not wait for the thread: the guards of its processes notice the end of this process.
        self._thread = threading.Thread(target=self._work, name="head start", daemon=True)

    def take_over(self, stage: str, on_line: OnLine, on_progress: OnProgress) -> bool:
        """Show what a stage says, until it ends; what it said before comes first.

        Args:
            stage: as in dvc.yaml.
            on_line: called with each line of output.
            on_progress: called with each state of its progress.

        Returns:
            Whether it had begun. If not, the caller starts it.

        Raises:
            StageFailed: see `bring_up_to_date`. The stage can't be taken over again.
        """
        with self._lock:
            begun = self._begun.pop(stage, None)
            if begun is None or not begun.has_ended:
                self._begins_more = False
        if begun is None:
            return False
        try:
            begun.tell(on_line, on_progress)
        except StageFailed:
            raise
        except BaseException:
            self.stop()
            raise
        return True

    def is_working(self) -> bool:
        """Whether a stage works, or will begin."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop the stage that works; returns when its processes are gone."""
        self._is_wanted = self._begins_more = False
        self._thread.join(_END_S)

    def _work(self) -> None:
        for stage in self._stages:
            with self._lock:
                if not self._begins_more:
                    return
                begun = self._begun[stage] = _Begun()
            error: BaseException | None = None
            try:
                bring_up_to_date(
                    stage,
                    self._workspace,
                    limit_s=self._limit_s,
                    on_line=begun.add,
                    on_progress=begun.add,
                    is_wanted=lambda: self._is_wanted,
                    warm=self._warm,
                )
            except BaseException as failure:  # noqa: BLE001 - raised again in the thread that takes over
                error = failure
            begun.end(error)
            if error is not None:
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class _Begun:
    """What a stage that has begun tells: lines, states of progress, and its end."""

    def __init__(self) -> None:
        self._told: SimpleQueue[str | dict[str, Any] | _End] = SimpleQueue()
        self.has_ended = False

    def add(self, what: str | dict[str, Any]) -> None:
        self._told.put(what)

    def end(self, error: BaseException | None) -> None:
        self.has_ended = True
        self._told.put(_End(error))

    def tell(self, on_line: OnLine, on_progress: OnProgress) -> None:
        while not isinstance(one := self._told.get(), _End):
            if isinstance(one, str):
                on_line(one)
            else:
                on_progress(one)
        if one.error is not None:
            raise one.error
