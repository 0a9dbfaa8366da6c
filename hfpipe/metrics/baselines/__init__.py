"""Trivial systems that a model must beat."""
