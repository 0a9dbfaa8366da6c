"""`hfpipe predict`: resolves the model, reads the inputs and runs the model."""
