"""Attention without masks, on CPUs, and between packed documents."""
