"""Run the benchmarks and write what they claim into the table of benchmarks/README.md.

    python benchmarks/table.py                      # all of them, about an hour on two cores
    python benchmarks/table.py rolling_loglikelihood training

Each script runs in a process of its own, on a machine that should do nothing else. A script's rows
replace those it had; the others stay, each with the day it was measured. `training_gpu` needs CUDA
and writes its own file (results/benchmarks/). Exits 1 when a script fails.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from claims import MARK

HERE = Path(__file__).parent
README = HERE / "README.md"
CLAIMS = HERE / "claims.json"
BEGIN, END = "<!-- claims: begin (written by table.py) -->", "<!-- claims: end -->"
SCRIPTS = (
    "startup",
    "rolling_loglikelihood",
    "shared_prefix",
    "niah_prefix",
    "manyshot",
    "ruler_generation",
    "attention_methods",
    "proof",
    "training",
    "tokenizing",
)


def run(script: str) -> list[dict]:
    """Run a script, show what it prints, and return its claims."""
    command = [sys.executable, str(HERE / f"{script}.py")]
    print(f"\n$ python benchmarks/{script}.py", flush=True)
    claims = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith(MARK):
                claims.append(json.loads(line[len(MARK) :]))
    if process.returncode:
        raise SystemExit(
            f"{script}.py ended with {process.returncode}; its rows stay as they were."
        )
    return claims


def machine() -> str:
    """Describe this machine and the versions that matter, in one line."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval"))
    return f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def table(found: dict[str, dict]) -> str:
    """Return the table of all claims in Markdown."""
    lines = [
        "| What | Beside | Ours / theirs | Aim | Script, day |",
        "| --- | --- | ---: | --- | --- |",
    ]
    for script in SCRIPTS:
        for claim in found.get(script, {}).get("claims", ()):
            value = f"{claim['value']:g}" + ("" if claim["unit"] == "x" else f" {claim['unit']}")
            aim = claim.get("aim", "")
            if aim and not claim["met"]:
                aim = f"**{aim}: not met**"
            day = found[script]["day"]
            cells = [claim["what"], claim["peer"], value, aim, f"`{script}.py`, {day}"]
            lines.append("| " + " | ".join(cells) + " |")
    machines = sorted({entry["machine"] for entry in found.values()})
    return "\n".join([*lines, "", *(f"Machine: {name}." for name in machines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)}")
    options = parser.parse_args()
    wrong = sorted(set(options.scripts) - set(SCRIPTS))
    if wrong:
        parser.error(f"no such script: {', '.join(wrong)}; there are {', '.join(SCRIPTS)}")
    found = json.loads(CLAIMS.read_text(encoding="utf-8")) if CLAIMS.exists() else {}
    for script in options.scripts or SCRIPTS:
        claims = run(script)
        day = datetime.date.today().isoformat()
        found[script] = {"day": day, "machine": machine(), "claims": claims}
        CLAIMS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        README.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
