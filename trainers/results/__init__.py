"""What a model answers and how good it is: predictions, scores, plots, report; also the files that predict reads."""
