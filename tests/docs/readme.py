"""Runs every command of README.md, top to bottom, with nothing installed but what it installs.

    python -m tests.docs.readme [VENV]

In a copy of the checkout, with a cache of its own and an empty virtual environment: a new one, or
VENV. Commands are those of its shell blocks, its Python blocks, and what stands between backticks
and begins with a program of ours. Ends with an error where a command fails, or is neither run nor
listed, or where no page comes out.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.docs.pages import ROOT

_PROGRAMS = ("pip", "pytest", "lm_eval", "ctxbench", "ctxbench-train", "torchrun", "uvx", "python")
_CODE = re.compile(r"^```(\w*)\n(.*?)^```$|`([^`]+)`", re.MULTILINE | re.DOTALL)
_HUB = "needs a model of the hub and a GPU"
_TESTS = "is the test command: .ci/run runs it in an environment of its own"
_NAMED = "only named; what it is given is the reader's"

NOT_RUN = {
    "lm_eval --model ctxext --model_args pretrained=meta-llama/Llama-2-7b-hf,method=yarn,"
    "length=32768,dtype=bfloat16 --tasks longbench_32k": _HUB,
    "lm_eval --model ctxext --tasks ruler_32k --limit 1": "needs RULER's data, and minutes",
    "ctxbench data fetch ruler": "needs the network",
    "pip install -c constraints.txt -e '.[test,dev]'": _TESTS,
    "pytest": _TESTS,
    "pytest -m slow": _TESTS,
    "lm_eval --model ctxext --model_args pretrained=mini,method=METHOD,length=2048 --tasks ...": (
        "stands for the commands of the table below it"
    ),
    "ctxbench data tokenize": _NAMED,
    "torchrun --nproc-per-node N -m lm_eval ...": _NAMED,
    "uvx --from lm-eval --with ctxbench lm_eval ...": "needs uv and a published package",
}
"""Commands of the README that are not run, with the reason."""

QUICKER = {
    "ctxbench-train --recipe mini --method yarn --output mini-yarn-1k --processes 2": (
        "ctxbench-train --recipe mini --method yarn --output mini-yarn-1k --processes 2"
        " --tokens 65536"
    ),
    "lm_eval --model ctxext --model_args pretrained=mini-yarn-1k,length=1024"
    " --tasks mini_needle_1k": (
        "lm_eval --model ctxext --model_args pretrained=mini-yarn-1k,length=1024"
        " --tasks mini_needle_1k --limit 8"
    ),
    "ctxbench-train --method pi": "ctxbench-train --method pi --tokens 65536",
    "ctxbench study mini --quick": "ctxbench study mini --quick --rows base,ntk-frozen",
    "ctxbench report DIR": "ctxbench report studies/mini-quick",
    "ctxbench plan --model M --tasks ruler_32k": (
        "ctxbench plan --model mini --tasks mini_needle_2k --method dynamic_ntk --length 2k"
    ),
    "ctxbench export CHECKPOINT OUT": "ctxbench export mini-yarn-1k mini-yarn-exported",
    "ctxbench validate my_method.py": "ctxbench validate examples/my_method.py",
    "ctxbench doctor MODEL": "ctxbench doctor mini-yarn-1k",
    "ctxbench lm-eval ...": (
        "CTXBENCH_NO_AUTOLOAD=1 ctxbench lm-eval --model ctxext --model_args pretrained=mini"
        " --tasks mini_needle_256 --limit 2"
    ),
    "lm_eval --include_path $(ctxbench tasks-path)": (
        "CTXBENCH_NO_AUTOLOAD=1 lm_eval --include_path $(ctxbench tasks-path) --model dummy"
        """ --tasks mini_needle_256 --limit 2 --metadata '{"tokenizer": "mini"}'"""
    ),
}
"""Commands that take minutes, or have a placeholder -> what is run in their place."""


def commands(text: str) -> list[str]:
    """Return the commands of a page in their order; a Python block is one, after `python -c`."""
    found = []
    for kind, block, inline in _CODE.findall(text):
        if kind == "python":
            found.append(f"python -c\n{block}")
        elif kind == "bash":
            lines = block.replace("\\\n", " ").splitlines()
            found += [part.strip() for line in lines for part in line.split(" && ") if part.strip()]
        elif inline and (line := " ".join(inline.split())).startswith(
            tuple(f"{program} " for program in _PROGRAMS)
        ):
            found.append(line)
    return list(dict.fromkeys(found))


def to_run(found: list[str]) -> list[str]:
    """Return what is run of a page's commands.

    Raises:
        ValueError: an entry of one of the lists is not on the page (any more).
    """
    if gone := [line for line in (*NOT_RUN, *QUICKER) if line not in found]:
        raise ValueError(f"README.md has not, and the lists have: {'; '.join(gone)}")
    return [QUICKER.get(line, line) for line in found if line not in NOT_RUN]


def copy_checkout(to: Path) -> None:
    """Copy what git knows, or would add, as it is in the checkout."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (file := ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(file.read_bytes())
            (to / name).chmod(file.stat().st_mode)


def environment(venv: Path, cache: Path) -> dict[str, str]:
    """Return an environment with the programs of a virtual environment, offline."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CTXBENCH_", "PYTHON"))}
    kept.pop("VIRTUAL_ENV", None)
    path = os.pathsep.join([str(venv / "bin"), os.defpath])
    return kept | {"PATH": path, "CTXBENCH_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def run(line: str, checkout: Path, given: dict[str, str]) -> None:
    """Run one command of the page; end with its output where it fails."""
    began = time.monotonic()
    python, _, source = line.partition("\n")
    words = ["python", "-c", source] if source else ["bash", "-c", line]
    done = subprocess.run(
        words, cwd=checkout, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    print(f"{time.monotonic() - began:6.1f} s  {python}", flush=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-6000:]}\nREADME.md: status {done.returncode} of\n{line}")


def main() -> None:
    """Run them; check that a page came out."""
    began = time.monotonic()
    lines = to_run(commands((ROOT / "README.md").read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="readme-") as name:
        folder = Path(name)
        checkout = folder / "ctxbench"
        venv = Path(sys.argv[1]) if sys.argv[1:] else folder / "venv"
        if not venv.joinpath("bin").is_dir():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        copy_checkout(checkout)
        for line in lines:
            run(line, checkout, environment(venv.resolve(), folder / "cache"))
        page = checkout / "studies" / "mini-quick" / "report" / "report.html"
        if not page.is_file() or "</html>" not in page.read_text(encoding="utf-8"):
            raise SystemExit("README.md: the study ended without a page.")
        size = page.stat().st_size / 1000
    print(f"{len(lines)} commands, {len(NOT_RUN)} listed; a page of {size:.0f} kB", end="; ")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
