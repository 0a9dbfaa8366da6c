"""Losses as sums and counts, computed at once or in chunks."""
