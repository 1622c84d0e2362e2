"""What the start-up file costs an interpreter: with it and without it, in turn.

    python benchmarks/startup.py [--runs 200]

Starts Python that many times with the start-up file in place and with it moved away, in turn, and
puts it back. Run it in an environment that nothing else is using.
"""

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from claims import claim


def start(python: str) -> float:
    begin = time.perf_counter()
    subprocess.run([python, "-I", "-c", "pass"], check=True)  # the environment alone
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    options = parser.parse_args()
    file = Path(sysconfig.get_paths()["purelib"]) / "ctxbench_autoload.pth"
    away = file.with_suffix(".away")
    times: dict[str, list[float]] = {"with": [], "without": []}
    try:
        for _ in range(options.runs):
            times["with"].append(start(sys.executable))
            os.replace(file, away)
            times["without"].append(start(sys.executable))
            os.replace(away, file)
    finally:
        if away.exists():
            os.replace(away, file)
    pairs = [a - b for a, b in zip(*times.values(), strict=True)]
    for name, found in times.items():
        print(f"{name:8}median {statistics.median(found):.3f} ms, lowest {min(found):.3f} ms")
    what = "interpreter start with the start-up file, median of pairs"
    claim(what, statistics.median(pairs), "the same without it", unit="ms more", at_most=1)


if __name__ == "__main__":
    main()
