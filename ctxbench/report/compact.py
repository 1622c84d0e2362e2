"""Results small enough to keep: one archive, without prompts and without traces of the machine."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctxbench.core.samples import KEY, short_fields
from ctxbench.report.archive import NAME, write_archive
from ctxbench.report.result_files import Run, result_folders
from ctxbench.report.study_source import find_study

_RESULTS = (
    *("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples"),
    *("config", "date", "lm_eval_version", "transformers_version", "max_length", "task_hashes"),
)
_SAMPLE = ("doc_id", "filter", "metrics")


def compact(paths: Sequence[Path], out: Path) -> tuple[Path, int]:
    """Write one study, or loose results, as an archive into a folder.

    Kept are scores, answers, what identifies the run, and lm-eval's hashes of all prompts of a task
    (`task_hashes`); dropped are prompts and other texts of over 200 characters, raw responses
    beside the filtered ones, and what describes the machine.

    Returns:
        The archive and the number of runs in it.

    Raises:
        FileNotFoundError: there are no results.
        ValueError: a file is damaged, or the results are of several studies.
    """
    paths = [path.resolve() for path in paths]
    studies = [study for path in paths if (study := find_study(path))]
    if studies and len(paths) > 1:
        raise ValueError(
            "Several folders were given, one of them a study. An archive holds one study, or loose "
            "results. Give a study alone."
        )
    if studies:
        head: dict[str, Any] = {"study": studies[0].content, "train": studies[0].trainings}
        root, folders = studies[0].root, studies[0].folders
    else:
        head, root = {}, Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
        folders = (folder for path in paths for folder in result_folders(path))
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        at = found.setdefault(folder.path, {"cell": None, "runs": {}})
        at["cell"] = at["cell"] or folder.cell
        at["runs"] |= {run.date: run for run in folder.runs()}
    count = sum(len(at["runs"]) for at in found.values())
    if not count:
        raise FileNotFoundError(
            f"No results_*.json in {', '.join(map(str, paths))}. Give the folder of a study, or "
            "what lm_eval wrote with --output_path."
        )
    lines = (_folder(path.relative_to(root), **found[path]) for path in sorted(found))
    write_archive(out / NAME, head, lines)
    return out / NAME, count


def _folder(path: Path, cell: dict[str, Any] | None, runs: dict[str, Run]) -> dict[str, Any]:
    return {
        "folder": path.as_posix(),
        **({"cell": cell} if cell else {}),
        "runs": [
            {
                "date": run.date,
                "results": _results(run.content),
                "samples": {task: [_lean(s) for s in run.records(task)] for task in run.samples},
            }
            for run in runs.values()
        ],
    }


def _results(content: dict[str, Any]) -> dict[str, Any]:
    kept = {name: content[name] for name in _RESULTS if name in content}
    formats = {
        task: {"metadata": {KEY: config["metadata"][KEY]}}
        for task, config in (content.get("configs") or {}).items()
        if KEY in (config.get("metadata") or {})
    }
    return kept | ({"configs": formats} if formats else {})


def _lean(sample: dict[str, Any]) -> dict[str, Any]:
    names = (*_SAMPLE, *sample.get("metrics", ()))
    kept = {name: sample[name] for name in names if name in sample}
    return {**kept, "doc": short_fields(sample), "filtered_resps": sample.get("filtered_resps")}
