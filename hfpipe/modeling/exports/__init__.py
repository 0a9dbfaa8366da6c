"""Models exported to run without training code: written by `transformers.exporters`, run like any model."""
