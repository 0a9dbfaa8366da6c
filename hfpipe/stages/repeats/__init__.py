"""Trainings that are done several times: for each seed, for each fold, and in search of the best settings."""
