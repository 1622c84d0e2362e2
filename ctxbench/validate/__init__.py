"""Checks of a method or a task of one's own: what `ctxbench validate` runs, and our tests too."""
