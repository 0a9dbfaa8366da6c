"""Encoded examples on disk: packed, written in shards, and read one row at a time."""
