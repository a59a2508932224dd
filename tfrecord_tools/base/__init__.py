"""Basic modules of all other packages: commands, flags, files, locks, workers, words, tables, pages."""
