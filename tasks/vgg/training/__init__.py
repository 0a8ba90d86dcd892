"""Gradient descent: resumable at any step, checked for collapse, with the same steps on one device and on several."""
