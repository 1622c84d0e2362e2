"""`ctxbench report DIR`: the report of a study; pictures of loose results, archives of both."""

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

_COMMANDS = ("study", "heatmap", "compact", "unpack")


def add_parser(subparsers) -> None:
    """Add `report` to the command line.

    `report DIR` is `report study DIR`: a first word that is neither a command nor an option is a
    study folder. A folder that is called heatmap or compact is given as ./heatmap.
    """
    parser = subparsers.add_parser(
        "report",
        help="tables, figures and one page from result files",
        usage="ctxbench report DIR [--out OUT] [--no-figures]\n"
        "       ctxbench report {heatmap,compact,unpack} ...",
    )
    parse = parser.parse_known_args

    def parse_known_args(args: Sequence[str] | None = None, namespace=None):
        words = list(args or ())
        named = words[:1] == ["study"] and not (words[1:] and not words[1].startswith("-"))
        if words and (named or words[0] not in (*_COMMANDS, "-h", "--help")):
            words = ["study", *words]  # also for a folder that is called study
        return parse(words, namespace)

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, prog="ctxbench report"
    )
    study = commands.add_parser("study", help="the report of a study folder (the default)")
    study.add_argument("folder", type=Path, help="what `ctxbench study NAME` wrote, or its archive")
    study.add_argument("--out", type=Path, help="folder to write to (FOLDER/report)")
    study.add_argument("--no-figures", action="store_true", help="no pictures (no matplotlib)")
    study.set_defaults(run=_study)
    heatmap = commands.add_parser("heatmap", help="score over length and depth of needle tasks")
    heatmap.add_argument(
        "results", nargs="+", type=Path, metavar="RESULTS",
        help="what lm_eval wrote with --output_path and --log_samples: folders (searched to any "
        "depth) or results_*.json files; or the folder of a study; or a cells.jsonl.xz",
    )  # fmt: skip
    heatmap.add_argument("--metric", default="score", help="of the records (score)")
    heatmap.add_argument("--task", help="only this family, such as niah or mini_needle")
    heatmap.add_argument(
        "--trained-length", type=int, help="tokens, in place of what the results say"
    )
    heatmap.add_argument("--out", type=Path, help="folder for PNG and CSV (the first RESULTS)")
    heatmap.add_argument("--no-png", action="store_true", help="draw in the terminal alone")
    heatmap.set_defaults(run=_heatmap)
    compact = commands.add_parser("compact", help="a study, or results, as one small archive")
    compact.add_argument("results", nargs="+", type=Path, help="a study; folders, results_*.json")
    compact.add_argument("--out", type=Path, required=True, help="folder to write to")
    compact.set_defaults(run=_compact)
    unpack = commands.add_parser("unpack", help="the files of an archive")
    unpack.add_argument("archive", type=Path, help="cells.jsonl.xz")
    unpack.add_argument("--out", type=Path, required=True, help="folder to write to")
    unpack.set_defaults(run=_unpack)


def _study(options: argparse.Namespace) -> int:
    from ctxbench.report.write import write_report

    for path in write_report(options.folder, options.out, not options.no_figures):
        if path.name.startswith("report."):
            print(path)
    return 0


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
    from ctxbench.report.compact import compact

    archive, runs = compact(options.results, options.out)
    print(f"{archive}: {runs} runs, {archive.stat().st_size / 1024:.0f} kB")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    from ctxbench.report.archive import unpack

    print(f"{options.out}: {unpack(options.archive, options.out)} folders of results")
    return 0
