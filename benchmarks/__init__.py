"""Measurements that compare this project with the usual way, both sides in one run."""
