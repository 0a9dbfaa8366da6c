"""Losses as sums and counts, whole or in chunks."""
