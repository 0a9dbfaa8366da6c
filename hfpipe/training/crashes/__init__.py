"""A step whose loss or gradient is not finite: noticed, and kept so that it can be computed again."""
