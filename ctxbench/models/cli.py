"""`ctxbench export`, and `ctxbench plan` for a single evaluation."""

from __future__ import annotations

import argparse
from typing import Any


def add_parsers(commands) -> None:
    """Add the commands."""
    export = commands.add_parser(
        "export", help="write a checkpoint that vLLM and others run without ctxbench"
    )
    export.add_argument("checkpoint", help="folder, hub id, or mini")
    export.add_argument("output", help="a new folder")
    export.add_argument("--method", help="default: what made the checkpoint")
    export.add_argument("--length", help="window, tokens, such as 32k")
    export.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the method"
    )
    export.add_argument("--revision", help="of a hub id")
    export.set_defaults(run=_export)


def pairs(given: list[str], flag: str) -> dict[str, Any]:
    """Return `NAME=VALUE` texts as a mapping; the options' own types are the method's.

    Raises:
        ValueError: one is no pair.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(
                f"{flag} {text!r} is not NAME=VALUE. Give for example {flag} factor=8."
            )
        found[name] = {"true": True, "false": False}.get(value.lower(), value)
    return found


def _export(options: argparse.Namespace) -> int:
    from ctxbench.models.export import export_checkpoint

    asked = pairs(options.option, "--option")
    if options.length is not None:
        asked["length"] = options.length
    done = export_checkpoint(
        options.checkpoint, options.output, options.method, revision=options.revision, **asked
    )
    shown = {
        name: value if not isinstance(value, list) else f"{len(value)} numbers"
        for name, value in done.rope_parameters.items()
    }
    print(f"{done.folder}: {', '.join(f'{name}={value}' for name, value in shown.items())}")
    for note in done.notes:
        print(f"note: {note}")
    print(f"vllm serve {done.folder}")
    return 0
