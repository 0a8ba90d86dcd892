"""The size of a prepared image, which is that of the network's input."""

IMAGE_SIZE_PX = 224
"""Height and width."""
