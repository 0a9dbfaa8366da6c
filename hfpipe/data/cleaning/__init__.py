"""Cleaning steps: edits, which change text, and filters, which drop rows."""
