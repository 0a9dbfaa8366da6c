"""The metrics as `evaluate.load` takes them: one file each, found by `hfpipe.metrics.path`."""
