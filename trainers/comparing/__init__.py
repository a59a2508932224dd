"""The trainings of a comparison: which to run, how to run them, cross-validation and search."""
