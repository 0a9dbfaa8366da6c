"""The scores of each kind of prediction, as sums that merge."""
