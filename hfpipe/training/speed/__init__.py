"""How fast a training runs: what is measured, chosen and remembered per machine."""
