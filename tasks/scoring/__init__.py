"""Scores all images of a source: what is to do, images on their way to the network, and files of rows."""
