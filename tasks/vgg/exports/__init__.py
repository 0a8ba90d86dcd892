"""The formats of the exported champion, and the check that each predicts the same as the trained model."""
