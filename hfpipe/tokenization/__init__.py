"""Training, loading and saving of tokenizers, and encoding of texts."""
