"""`hfpipe show`: rows of a stage as the model reads them, or as cleaning leaves them."""
