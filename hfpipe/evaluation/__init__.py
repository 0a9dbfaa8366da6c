"""Evaluates models and baselines on one split: scores, and the file of predictions."""
