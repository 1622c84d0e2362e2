"""Passkey retrieval; see README.md."""
