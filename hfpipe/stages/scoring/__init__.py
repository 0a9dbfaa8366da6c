"""What the `evaluate` stage is made of: its systems, groups of rows, named metrics, bounds and notes."""
