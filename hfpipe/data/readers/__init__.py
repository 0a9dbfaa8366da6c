"""Readers of local files: one per format."""
