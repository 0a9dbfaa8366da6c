"""Models from a checkpoint or from scratch, their heads, embeddings and adapters."""
