"""Encoded examples on disk: packed, written shard by shard, and read one row at a time."""
