"""The only adapter to DVC's Python API: changes, the inputs of stages, the entries of dvc.lock, the cache."""
