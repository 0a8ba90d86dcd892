"""Runs of stages as child processes: start, watch, stop, explain. Doesn't use Prefect."""
