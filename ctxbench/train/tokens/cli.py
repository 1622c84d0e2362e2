"""`ctxbench data tokenize`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ctxbench.core.settings import add_arguments, read_settings
from ctxbench.train.tokens.request import StoreRequest, parse_mix

_REQUEST = {field.name for field in dataclasses.fields(StoreRequest)}


def add_parser(commands) -> None:
    """Add `tokenize` to the subcommands of `ctxbench data`."""
    parser = commands.add_parser(
        "tokenize",
        help="choose, mix and tokenise documents into a store for ctxbench-train --data",
        description="Fu et al. 2024's per-source length upsampling, exactly and reproducibly.",
    )
    parser.add_argument("inputs", nargs="+", help="files, folders, or the id of a hub dataset")
    parser.add_argument("--tokenizer", required=True, help="checkpoint folder, hub id, or mini")
    parser.add_argument("--output", required=True, type=Path, help="folder of the store")
    add_arguments(parser, StoreRequest, leave_out=["mix"])
    parser.add_argument(
        "--mix", help="of per_source: slimpajama-fu (default), llama1, or NAME=SHARE,..."
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, one core each (1)")
    parser.add_argument("--text", default="text", help="column of the text (text)")
    parser.add_argument(
        "--label", default="meta.redpajama_set_name",
        help="column of the source's name (meta.redpajama_set_name)",
    )  # fmt: skip
    parser.add_argument("--revision", help="of a hub dataset")
    parser.add_argument("--split", default="train", help="of a hub dataset (train)")
    parser.set_defaults(run=_tokenize)


def _tokenize(options: argparse.Namespace) -> int:
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    from ctxbench.core.assets import resolve_model
    from ctxbench.models.loading import load_tokenizer
    from ctxbench.train.tokens.store_writer import build_store

    given = {name: value for name, value in vars(options).items() if name in _REQUEST}
    default = "slimpajama-fu" if given.get("mode", "per_source") == "per_source" else None
    mix = options.mix or default
    given["mix"] = parse_mix(mix) if mix else None
    request = read_settings(StoreRequest, given, text=True)
    tokenizer = load_tokenizer(resolve_model(options.tokenizer))
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        rows: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = bar.add_task(what, total=total)
            bar.update(rows[what], completed=done)

        meta = build_store(
            _files(options, request),
            tokenizer,
            options.output,
            request,
            text=options.text,
            label=options.label,
            workers=options.workers,
            progress=show,
        )
    print(f"{meta['tokens']:,} tokens in {options.output}")
    for name, about in meta["sources"].items():
        asked = f" (asked {meta['asked'].get(name, 0):.4f})" if meta["asked"] else ""
        print(
            f"  {name or 'no label':14} {about['share']:.4f}{asked}  {about['tokens']:,} tokens, "
            f"{about['documents']:,} of {about['documents_scanned']:,} documents"
        )
    return 0


def _files(options: argparse.Namespace, request: StoreRequest) -> list[Path]:
    from ctxbench.core.text_files import record_files
    from ctxbench.train.tokens.stream import open_hub_stream, spool

    found = []
    for name in options.inputs:
        path = Path(name).expanduser()
        if path.exists():
            found += record_files(path)
            continue
        records = open_hub_stream(name, options.revision, options.split)
        stream = f"{name} {options.revision} {options.split}"
        found.append(spool(stream, records, request, text=options.text, label=options.label))
    return found
