"""Tasks the bundled mini model can do, from the user's own standard library; see README.md."""
