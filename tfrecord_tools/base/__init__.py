"""What every room uses: commands and flags, files and locks, workers, words, tables, pages."""
