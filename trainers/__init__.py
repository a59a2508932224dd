"""Trainers: from a dataset directory to a run directory with a trained classifier."""
