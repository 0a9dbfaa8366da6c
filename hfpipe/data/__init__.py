"""Rows from anywhere, cleaned with every loss counted, and split by content."""
