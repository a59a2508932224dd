"""The parts of a training: checks, tasks, settings, batches and the cache of features."""
