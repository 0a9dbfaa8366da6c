"""Rows of local files: one reader a format."""
