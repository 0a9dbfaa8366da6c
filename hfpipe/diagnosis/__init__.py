"""What is wrong with a training: a crashed step computed again, and numbers that should be equal compared."""
