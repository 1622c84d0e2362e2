"""Task families for lm-eval; one folder each."""
