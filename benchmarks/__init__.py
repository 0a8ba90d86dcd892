"""Measurements of this project against the usual way; both are measured in one run."""
