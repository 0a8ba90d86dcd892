"""Metrics, charts, pages, tables and the model card: pure functions from numbers to text."""
