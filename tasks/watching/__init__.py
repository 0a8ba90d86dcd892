"""Watches whether new images look like those that a model was tested on."""
