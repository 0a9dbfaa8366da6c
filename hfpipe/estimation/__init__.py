"""Estimates the cost of a plan before it runs: parameters, tokens, steps, FLOPs, memory and disk."""
