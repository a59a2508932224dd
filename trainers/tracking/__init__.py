"""Show trainings: as a table in notebooks, and in experiment trackers."""
