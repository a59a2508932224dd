"""Predictions and scores of models, reports and comparisons, and the files that predict reads."""
