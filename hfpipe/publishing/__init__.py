"""`hfpipe push`: uploads a model to the Hub, with its card and scores, and nothing else of its folder."""
