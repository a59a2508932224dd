"""Writing the images of a dataset in the formats of other libraries."""
