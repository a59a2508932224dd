"""Find the images of a source and read their classes and splits from folders, tables and file names."""
