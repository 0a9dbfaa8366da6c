"""From raw text to an evaluated model in one recipe file."""
