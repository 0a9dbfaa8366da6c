"""Reads rows from any source, cleans them, counts every loss, and splits them by content."""
