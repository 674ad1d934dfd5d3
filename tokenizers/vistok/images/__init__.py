"""Images: value ranges, files, crops."""
