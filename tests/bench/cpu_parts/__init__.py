"""The parts of `cpu.py`, each run in a process of its own."""
