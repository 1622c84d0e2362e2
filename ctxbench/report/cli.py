"""`ctxbench report`: pictures and tables from result files."""

import argparse
from itertools import groupby
from pathlib import Path


def add_parser(subparsers) -> None:
    """Add `report` to the command line."""
    parser = subparsers.add_parser("report", help="pictures and tables from result files")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    heatmap = commands.add_parser("heatmap", help="score over length and depth of needle tasks")
    heatmap.add_argument("results", nargs="+", type=Path, help="folders or results_*.json files")
    heatmap.add_argument("--metric", default="score", help="of the records (score)")
    heatmap.add_argument("--task", help="only this family, such as niah or mini_needle")
    heatmap.add_argument(
        "--trained-length", type=int, help="tokens, in place of what the results say"
    )
    heatmap.add_argument("--out", type=Path, help="folder for PNG and CSV (the first RESULTS)")
    heatmap.add_argument("--no-png", action="store_true", help="draw in the terminal alone")
    heatmap.set_defaults(run=_heatmap)
    compact = commands.add_parser("compact", help="copy results without prompts, small")
    compact.add_argument("results", nargs="+", type=Path, help="folders or results_*.json files")
    compact.add_argument("--out", type=Path, required=True, help="folder to write to")
    compact.set_defaults(run=_compact)


def _heatmap(options: argparse.Namespace) -> int:
    from ctxbench.report import heatmap
    from ctxbench.report.result_files import find_runs

    maps = heatmap.heat_maps(
        find_runs(options.results), options.metric, options.task, options.trained_length
    )
    first = options.results[0]
    folder = options.out or (first if first.is_dir() else first.parent)
    for family, group in groupby(maps, key=lambda found: found.family):
        members = list(group)
        for found, title in zip(members, heatmap.titles(members), strict=True):
            heatmap.print_map(found, title)
        if options.no_png:
            continue
        suffix = "" if options.metric == "score" else f"_{options.metric}"
        path = folder / f"heatmap_{family}{suffix}.png"
        heatmap.draw(members, path)
        heatmap.write_cells(members, path.with_suffix(".csv"))
        print(f"{path}\n{path.with_suffix('.csv')}")
    return 0


def _compact(options: argparse.Namespace) -> int:
    from ctxbench.report.compact import write_compact
    from ctxbench.report.result_files import find_runs

    for run in find_runs(options.results):
        written = write_compact(run, options.out)
        print(
            f"{options.out / run.path.name} and {len(run.samples)} tasks: {written / 1024:.0f} kB"
        )
    return 0
