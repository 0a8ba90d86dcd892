"""The Prefect flows: they say when and where the work runs. The work itself is in `tasks`."""
