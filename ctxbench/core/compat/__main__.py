"""Prints everything that is used of other libraries, and what the installed ones lack of it."""

import sys

from ctxbench.core.compat import broken


def main() -> int:
    """Print one line for each; return how many are broken."""
    count = 0
    for entry, error in broken():
        count += error is not None
        print(f"{'FAIL' if error else 'ok':5}{entry.library} {entry}: {error or entry.why}")
    print(f"{count} broken." if count else "All as checked.")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
