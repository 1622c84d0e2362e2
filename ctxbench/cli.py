"""`ctxbench`: the command beside `lm_eval`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ctxbench import __version__
from ctxbench.core.errors import user_message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["lm-eval"]:  # its own parser reads the rest
        return _lm_eval(given[1:])
    parser = make_parser()
    options = parser.parse_args(given)
    if not hasattr(options, "run"):
        parser.print_help()
        return 2
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        message = user_message(error)
        if message is None or os.environ.get("CTXBENCH_TRACEBACK") == "1":
            raise
        print(f"ctxbench: {message}", file=sys.stderr)
        return 2


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    from ctxbench import doctor
    from ctxbench.models import cli as models_cli
    from ctxbench.report import cli as report_cli
    from ctxbench.study import cli as study_cli
    from ctxbench.tasks import data_cli
    from ctxbench.train.tokens import cli as tokens_cli
    from ctxbench.validate import cli as validate_cli

    parser = argparse.ArgumentParser(prog="ctxbench", description=__doc__)
    parser.add_argument("--version", action="version", version=f"ctxbench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    listing = commands.add_parser("ls", help="list methods, presets, rows of the paper and tasks")
    listing.add_argument(
        "what",
        nargs="?",
        help="methods, models, presets, rows or tasks; or the name of one of them, such as yarn: "
        "its options with defaults, and the paper",
    )
    listing.set_defaults(run=_list)
    path = commands.add_parser("tasks-path", help="print the folder for lm_eval --include_path")
    path.set_defaults(run=_tasks_path)
    tokens_cli.add_parser(data_cli.add_parser(commands))
    study_cli.add_parsers(commands)
    report_cli.add_parser(commands)
    models_cli.add_parsers(commands)
    validate_cli.add_parser(commands)
    doctor.add_parser(commands)
    commands.add_parser(
        "lm-eval", help="run lm_eval with our model and tasks registered (no start-up file needed)"
    )
    return parser


def _list(options: argparse.Namespace) -> None:
    from ctxbench.listing import (
        describe,
        methods_table,
        models_table,
        presets_table,
        rows_table,
        tasks_table,
    )

    if options.what == "models":
        _print_rows("models", models_table())
        return
    tables = {
        "methods": methods_table,
        "presets": presets_table,
        "rows": rows_table,
        "tasks": tasks_table,
    }
    if options.what not in (None, *tables):
        print(describe(options.what))
        return
    for name, table in tables.items():
        if options.what in (None, name):
            _print_rows(name, table())


def _print_rows(name: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(row[0]) for row in rows) + 2
    print(f"{name}:")
    print("\n".join(f"  {row[0].ljust(width)}{row[1]}" for row in rows))


def _tasks_path(options: argparse.Namespace) -> None:
    from ctxbench.tasks.leaf_files import tasks_path

    print(tasks_path())


def _lm_eval(arguments: list[str]) -> int:
    from ctxbench import plugin

    plugin.register_all()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
