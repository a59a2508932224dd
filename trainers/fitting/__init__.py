"""What a training consists of: set-up, tasks, settings, batches, cache of features."""
