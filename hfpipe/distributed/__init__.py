"""Processes of a training: their layout, and how a model is split over them."""
