"""The page of a run, an HTML file with charts, and the model card."""
