"""`hfpipe predict`: which model, which inputs, and its predictions."""
