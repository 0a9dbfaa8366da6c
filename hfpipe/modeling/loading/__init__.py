"""Loads models from a checkpoint or creates them from scratch, with heads, embeddings and adapters."""
