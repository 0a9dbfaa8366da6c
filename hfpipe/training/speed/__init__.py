"""Speed of a training: measurements, and choices that depend on the machine."""
