"""Scores that merge: sums of statistics an example, and the intervals that come with them."""
