"""How texts become tokens and tokenizers become files, the same to everybody who opens them."""
