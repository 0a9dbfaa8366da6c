"""Checks between stages, made before anything runs, so that a run does not fail hours later."""
