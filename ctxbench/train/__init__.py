"""Training: one recipe for every method."""
