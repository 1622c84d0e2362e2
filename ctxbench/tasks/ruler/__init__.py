"""RULER (Hsieh et al. 2024, arXiv 2404.06654): 13 subtasks at any length, for lm-eval."""
