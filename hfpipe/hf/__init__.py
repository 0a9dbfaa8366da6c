"""The wall round Transformers, Datasets, Tokenizers and Accelerate."""
