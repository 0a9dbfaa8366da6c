"""Recipes with a `matrix`: its axes, and the stages that it expands to."""
