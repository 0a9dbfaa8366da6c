"""Loading of models, attention, losses and performance settings."""
