"""Runs of stages as child processes: start, watch, stop, explain. Knows nothing of Prefect."""
