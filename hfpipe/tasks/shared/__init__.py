"""Code shared by several tasks: templates, windows, prompts, objectives and generation."""
