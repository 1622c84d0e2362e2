"""Needle in a haystack; see README.md."""
