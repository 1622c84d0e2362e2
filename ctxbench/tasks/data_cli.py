"""`ctxbench data`: fetch what tasks read; prepare, list, check and remove generated samples."""

import argparse
import importlib
from types import ModuleType

from ctxbench.tasks.leaf_files import constants_of

FAMILIES = {
    "ruler": "ctxbench.tasks.ruler.dataset",
    "niah": "ctxbench.tasks.niah.dataset",
    "passkey": "ctxbench.tasks.passkey.dataset",
}
"""Families: the module has `get_specs`, `report_skips`, `recount`."""


def add_parser(subparsers):
    """Add `data` to the command line; return what further commands of it are added to."""
    parser = subparsers.add_parser(
        "data", help="fetch what tasks read; prepare, list, check, remove what they make"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    fetch = commands.add_parser(
        "fetch",
        help="download what tasks read, at a fixed content",
        description="Licence and size are said first; what is here already is compared. A "
        "download that broke off goes on when the command is run again.",
    )
    fetch.add_argument(
        "family", nargs="+", help="ruler, niah, longbench, ..., a task such as ruler_32k, or all"
    )
    fetch.add_argument(
        "--output", help="folder (the first of CTXBENCH_DATA, else CTXBENCH_CACHE/data, which is "
        "searched too); files of the hub go into the hub's own cache",
    )  # fmt: skip
    fetch.add_argument(
        "--mirror", action="append", default=[], metavar="FROM=TO",
        help="addresses that begin with FROM are read at TO, such as "
        "https://huggingface.co=https://MIRROR; may be repeated",
    )  # fmt: skip
    fetch.add_argument("--dry-run", action="store_true", help="say licences and sizes only")
    fetch.set_defaults(run=_fetch)
    build = commands.add_parser("build", help="make the data of a task or group ahead of a run")
    build.add_argument("task", help="such as ruler_32k or ruler_4k_vt")
    build.add_argument("--tokenizer", required=True, help="folder, hub id, or mini")
    build.add_argument("--samples", type=int, help="per leaf task (ruler 500, niah, passkey 50)")
    build.add_argument("--seed", type=int, help="of all random numbers (42)")
    build.add_argument("--fidelity", help="ruler: nvidia (default), lceg, strict; niah_lceg: lceg")
    build.add_argument("--unfit", help="ruler: skip (default) or error")
    build.add_argument(
        "--chat", action="store_true", default=None, help="count the tokenizer's chat template"
    )
    build.add_argument("--templates", help="ruler: checked (default) or unchecked")
    build.add_argument("--data-dir", help="searched for local data before CTXBENCH_DATA")
    build.set_defaults(run=_build)
    listing = commands.add_parser("ls", help="list what is there")
    listing.add_argument("name", nargs="?", default="*", help="task, whole name, or pattern")
    listing.set_defaults(run=_list)
    verify = commands.add_parser("verify", help="check that files are whole")
    verify.add_argument("name", nargs="?", default="*", help="task, whole name, or pattern")
    verify.add_argument(
        "--prompts", action="store_true", help="also write every prompt and count its tokens anew"
    )
    verify.add_argument("--tokenizer", help="for --prompts, where it is not where it was")
    verify.set_defaults(run=_verify)
    remove = commands.add_parser("rm", help="remove files")
    remove.add_argument("name", help="task, whole name, or pattern")
    remove.set_defaults(run=_remove)
    return commands


def _fetch(options: argparse.Namespace) -> int:
    from ctxbench.tasks.fetching import fetch

    return fetch(options)


def _family(name: str) -> ModuleType:
    family = name.split("_")[0]
    if family not in FAMILIES:
        raise ValueError(
            f"{name!r} has no data to build. Allowed: tasks and groups of {', '.join(FAMILIES)}. "
            "See `ctxbench ls tasks`."
        )
    return importlib.import_module(FAMILIES[family])


def _build(options: argparse.Namespace) -> int:
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

    family = _family(options.task)
    leaves = constants_of(options.task)
    if not leaves:
        raise ValueError(
            f"There is no task or group {options.task!r}. Names are like ruler_32k, ruler_32k_qa, "
            "ruler_32k_vt, niah_32k or passkey_32k; see `ctxbench ls tasks`."
        )
    chosen = ("tokenizer", "samples", "seed", "fidelity", "unfit", "chat", "templates", "data_dir")
    metadata = {name: v for name in chosen if (v := getattr(options, name)) is not None}
    columns = (SpinnerColumn(), *Progress.get_default_columns()[:2], MofNCompleteColumn())
    failures = []
    with Progress(*columns, TimeElapsedColumn()) as progress:
        for name, constants in leaves.items():
            row = progress.add_task(name, total=options.samples)
            try:
                found = family.get_specs(
                    *constants.values(), metadata, lambda r=row: progress.advance(r)
                )
            except (ValueError, FileNotFoundError) as error:
                failures.append(f"{name}: {error}")
                progress.update(row, description=f"{name} failed")
                continue
            progress.update(row, completed=len(found.rows), total=len(found.rows))
            family.report_skips(found)
    if failures:
        raise ValueError("\n".join(failures))
    return 0


def _matching(name: str) -> list:
    from ctxbench.tasks import specs

    found = list(specs.files(name))
    if not found and name != "*":
        raise ValueError(
            f"No data is called {name!r} in {specs.folder()}. Give a task, a whole name or a "
            "pattern such as 'ruler_32k*'; see `ctxbench data ls`."
        )
    return found


def _list(options: argparse.Namespace) -> int:
    from ctxbench.tasks import specs

    print(specs.folder())
    for path in _matching(options.name):
        try:
            found = specs.read(path)
        except ValueError:
            print(f"  {path.stem}  damaged")
            continue
        about = {k: found.key.get(k) for k in ("fidelity", "seed", "unfit")}
        facts = ", ".join(f"{k} {v}" for k, v in about.items())
        print(
            f"  {path.stem}  {len(found.rows)} samples, {path.stat().st_size / 1024:.0f} kB, "
            f"{facts}, tokenizer {found.report.get('tokenizer_name')}"
        )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from ctxbench.tasks import specs

    bad = 0
    for path in _matching(options.name):
        try:
            found = specs.read(path)
            if options.prompts:
                _family(path.stem).recount(found, options.tokenizer)
        except (ValueError, FileNotFoundError) as damage:
            bad += 1
            print(f"{path.stem}: {damage}")
        else:
            print(f"{path.stem}: {len(found.rows)} samples whole")
    return 1 if bad else 0


def _remove(options: argparse.Namespace) -> int:
    from ctxbench.tasks import specs

    for path in _matching(options.name):
        specs.remove(path)
        print(f"removed {path.stem}")
    return 0
