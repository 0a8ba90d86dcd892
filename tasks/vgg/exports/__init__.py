"""The formats that the champion is exported in, and the proof that each predicts as the trained model."""
