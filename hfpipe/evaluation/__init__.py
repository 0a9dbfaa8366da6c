"""Evaluation: which classes a model and its baselines are scored on."""
