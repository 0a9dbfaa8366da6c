"""How models compute, whatever they are trained for."""
