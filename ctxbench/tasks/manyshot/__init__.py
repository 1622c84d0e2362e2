"""Many-shot classification: TREC with 1 to 1000 shots, and a small one for the mini model."""
