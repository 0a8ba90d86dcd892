"""Gradient descent that can be trusted: resumable at any step, watched, the same on one device and on several."""
