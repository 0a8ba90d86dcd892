"""The work: the stages, the programs for people, and what both are built on."""

import importlib.util
import sys

if importlib.util.find_spec("pyarrow") is None:  # such as `python` of a shell in which nothing is activated
    raise SystemExit(
        f"{sys.executable} lacks this project's packages. Activate its environment (. .venv/bin/activate) and repeat "
        "the command, or let make do it: make repro"
    )
