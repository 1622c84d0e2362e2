"""Perplexity over long texts by the paper's windows, by sliding windows, and by prefixes."""
