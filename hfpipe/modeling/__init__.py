"""How models compute, which weights have to fit, and the classes of their heads."""
