"""`hfpipe show`: rows of a stage as the model reads them, or before and after cleaning."""
