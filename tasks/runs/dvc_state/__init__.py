"""The one adapter to DVC's Python API: what has changed, what a stage needs, the entries of dvc.lock, the cache."""
