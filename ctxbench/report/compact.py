"""Result files small enough to keep: without prompts and without traces of the machine."""

import json
from pathlib import Path
from typing import Any

from ctxbench.report.result_files import Run, read_samples

_RESULTS = (
    *("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples"),
    *("config", "date", "lm_eval_version", "transformers_version", "max_length", "task_hashes"),
)
_SAMPLE = ("doc_id", "filter", "metrics")
_LONGEST = 200  # characters of a text in a record that is kept


def write_compact(run: Run, folder: Path) -> int:
    """Write a run's files into a folder under their own names; return their bytes.

    Kept are scores, answers, what identifies the run, and lm-eval's hashes of all prompts of a task
    (`task_hashes`); dropped are prompts and other texts of over 200 characters, raw responses
    beside the filtered ones, and what describes the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: run.content[name] for name in _RESULTS if name in run.content}
    text = json.dumps(kept, indent=1, ensure_ascii=False) + "\n"
    written = _write(folder / run.path.name, text)
    for path in run.samples.values():
        lines = [json.dumps(_lean(s), ensure_ascii=False) + "\n" for s in read_samples(path)]
        written += _write(folder / path.name, "".join(lines))
    return written


def _lean(sample: dict[str, Any]) -> dict[str, Any]:
    names = (*_SAMPLE, *sample.get("metrics", ()))
    doc = {
        key: value
        for key, value in (sample.get("doc") or {}).items()
        if len(json.dumps(value)) <= _LONGEST
    }
    kept = {name: sample[name] for name in names if name in sample}
    return {**kept, "doc": doc, "filtered_resps": sample.get("filtered_resps")}


def _write(path: Path, text: str) -> int:
    return path.write_bytes(text.encode("utf-8"))
