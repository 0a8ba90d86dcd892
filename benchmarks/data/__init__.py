"""Measurements of the data stages: the cost to find, decode, store and compare images."""
