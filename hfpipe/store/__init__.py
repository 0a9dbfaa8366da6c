"""Stage folders on disk, and the digests that name them."""
