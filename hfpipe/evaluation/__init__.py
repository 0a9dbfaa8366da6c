"""Models and baselines on one split, row by row: scores and the file of predictions."""
