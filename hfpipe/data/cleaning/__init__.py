"""Cleaning steps: edits that keep every row, and filters that drop some."""
