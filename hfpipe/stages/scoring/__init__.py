"""Parts of the `evaluate` stage: systems, groups of rows, named metrics, bounds and notes."""
