"""When and where the work runs: Prefect flows. The work itself is in `tasks`."""
