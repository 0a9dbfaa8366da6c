"""What several tasks share: templates, windows, prompts, objectives and generation."""
