"""Repeated trainings: for seeds, for folds, for combinations of settings, and in a search for the best."""
