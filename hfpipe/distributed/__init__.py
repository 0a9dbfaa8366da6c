"""Processes of one training: how they are arranged, and how they share a model."""
