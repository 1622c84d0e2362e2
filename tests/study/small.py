"""A small study run with stand-ins for lm_eval and ctxbench-train."""

import os
import re
from pathlib import Path

import yaml

from ctxbench.study import folder
from ctxbench.study.display import Display
from ctxbench.study.launcher import Launcher
from ctxbench.study.loading import load_study
from ctxbench.study.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
STUBS = {"lm_eval": "tests.study.stub_lm_eval", "ctxbench.train": "tests.study.stub_train"}
_NOT_COMPARED = ("logs", "study.log", ".lock", "killed", "answers")
"""What a study's folder holds besides its results."""
STUDY = {
    "title": "Small",
    "model": "mini",
    "train": {"recipe": "mini"},
    "seeds": [0, 1],
    "together": "row",
    "cache": False,
    "rows": {
        "base": {"label": "Base", "class": "frozen", "method": "none"},
        "pi": {
            "label": "PI",
            "class": "exact",
            "method": "pi",
            "options": {"factor": 4.0},
            "train": {},
        },
        "control": {"label": "Control", "class": "control", "method": "none", "train": {}},
    },
    "columns": {
        "perplexity": {
            "kind": "perplexity",
            "task": "mini_windows_{length}",
            "lengths": [128, 256],
            "metric": "ppl_overlap",
            "higher_is_better": False,
        },
        "needle": {
            "kind": "needle",
            "task": "mini_needle_{length}",
            "lengths": [256],
            "metric": "score",
            "documents": 3,
        },
    },
}


def write_study(where: Path, **changes) -> str:
    """Write the small study with top-level changes; return the file's name."""
    file = where / "small.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return str(file)


def run(
    root: Path, file: str, devices: int = 2, display: Display | None = None, **environment: str
) -> Runner:
    """Run the study of a file in a folder, as the command does, with the stand-ins."""
    study = load_study(file)
    root.mkdir(exist_ok=True)
    folder.prepare(study, root)
    given = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    display = display or Display()
    runner = Runner(study, root, [{}] * devices, programs=STUBS, display=display)
    with Launcher(root, {**given, **environment}, warm=False) as launcher, display:
        runner.run(launcher)
    return runner


def contents(root: Path) -> dict[str, str]:
    """Return the files of a study by name, without logs, dates and times."""
    found = {}
    for file in sorted(root.rglob("*")):
        name = str(file.relative_to(root))
        if not file.is_file() or name.startswith(_NOT_COMPARED):
            continue
        if file.suffix not in (".json", ".jsonl", ".txt", ".yaml", ".md"):
            found[name] = file.read_bytes().hex()
            continue
        text = file.read_text()
        if name.endswith("metrics.jsonl"):
            text = re.sub(r'"(seconds|tokens_per_second|memory_gib)": [\d.e-]+', "", text)
        text = re.sub(r'"[\w_]*(seconds|date|time)\w*": ("?)[\d.:e-]+\2', "", text)
        found[re.sub(r"\d{4}-\d\d-\d\dT[\d.+-]+?(?=\.json|\Z)", "DATE", name)] = text
    return found
