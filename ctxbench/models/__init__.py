"""Loading extended models, scoring with them, and the lm-eval model."""
