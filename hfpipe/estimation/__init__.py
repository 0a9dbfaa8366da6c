"""What a plan costs before it runs: parameters, tokens, steps, FLOPs, memory and disk."""
