"""Figures, charts, the report page and the model card: pure functions from numbers to text."""
