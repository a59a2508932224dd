"""Run the trainings of `trainers.compare`, with cross-validation and search, and collect the results."""
