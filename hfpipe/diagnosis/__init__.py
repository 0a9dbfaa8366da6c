"""Diagnosis of trainings: recomputes crashed steps, and compares numbers that should be equal."""
