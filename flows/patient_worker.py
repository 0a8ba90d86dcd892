"""A worker of Prefect that outlives outages of the server: `python -m flows.patient_worker --pool local --limit 1`.

Prefect 3.8's worker ends when about twelve of its questions in a row weren't answered, and ends its runs with it. With
a question every second that took 75 s. The part of it that notices a cancelled run gives up in the same way. This
program runs Prefect's worker with loops that go on asking. It also looks for lost runs.
"""

from __future__ import annotations

import logging
import runpy
import signal
import sys
from typing import Any

import prefect.utilities.services as services

_give_up = services.critical_service_loop
_GIVEN_UP = "Service exceeded error threshold."


async def ask_for_ever(*arguments: Any, **options: Any) -> None:
    """As Prefect's `critical_service_loop`, but an outage doesn't end it."""
    while True:
        try:
            return await _give_up(*arguments, **options)
        except RuntimeError as error:
            if str(error) != _GIVEN_UP:
                raise
            told = "Prefect's server doesn't answer. The worker goes on asking, and its runs continue."
            logging.getLogger("prefect.worker").warning(told)


def main() -> None:
    # Before Prefect's worker is imported: its modules then take this function for Prefect's.
    services.critical_service_loop = ask_for_ever
    from flows.lost_runs import watch_in_background

    watch_in_background()
    # A shell starts commands in the background with SIGINT ignored. Prefect's worker ends by it when SIGTERM comes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["prefect", "worker", "start", "--type", "process", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
