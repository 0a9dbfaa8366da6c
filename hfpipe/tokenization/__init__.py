"""How texts become tokens, and tokenizers become files that open as they were saved."""
