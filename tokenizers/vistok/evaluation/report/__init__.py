"""Reports of an evaluation: JSON, values of each image, an HTML page, a table."""
