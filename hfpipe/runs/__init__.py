"""Finished runs: open them, look them up, compare them."""
