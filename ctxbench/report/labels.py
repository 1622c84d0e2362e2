"""What kinds of columns are called."""

KINDS = {
    "perplexity": "Perplexity",
    "needle": "Needle",
    "multiquery": "Four of eight",
    "manyshot": "Many-shot",
    "longbench": "LongBench",
    "ruler": "RULER",
    "nll": "Loss by position",
}
"""What a kind of column is called; one of your own by its name."""

UNTRAINED = "the method needs training and had none."
"""What is said of such rows, wherever their numbers stand."""


def kind_name(kind: str) -> str:
    """Return what a kind of column is called."""
    return KINDS.get(kind, kind.replace("_", " ").capitalize())
