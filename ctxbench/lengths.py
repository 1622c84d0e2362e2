"""Lengths as names: how tasks, columns and pages write a number of tokens."""


def length_name(tokens: int) -> str:
    """Return a length as task names have it: 4096 is 4k, 1000 is 1000."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)
