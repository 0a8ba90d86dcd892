"""The data side: what it costs to find, decode, keep and compare images."""
