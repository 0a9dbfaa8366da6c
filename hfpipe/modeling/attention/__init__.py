"""Attention without masks, on CPUs, and within packed documents."""
