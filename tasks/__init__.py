"""The work: the stages, the programs for people, and the modules that both use."""

import importlib.util
import sys

if importlib.util.find_spec("safetensors") is None:  # such as the system's `python`
    raise SystemExit(
        f"{sys.executable} lacks this project's packages. Activate its environment (. .venv/bin/activate) and repeat "
        "the command, or let make do it: make repro"
    )
