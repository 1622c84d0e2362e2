"""`ctxbench export`, and `ctxbench plan` for a single evaluation."""

from __future__ import annotations

import argparse

from ctxbench.core.assets import BUNDLED_MODELS
from ctxbench.core.settings import parse_pairs


def add_parsers(commands) -> None:
    """Add `export`, and to the `plan` of studies the arguments of a single evaluation."""
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
    plan = commands.choices["plan"]
    single = plan.add_argument_group("a single evaluation, in place of a study (with --model)")
    single.add_argument("--tasks", nargs="+", help="tasks and groups")
    single.add_argument("--method", help="default: what the checkpoint's record says, else none")
    single.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the method"
    )
    single.add_argument("--dtype", default="auto", help="of the weights (auto)")
    single.add_argument("--limit", type=int, help="prompts per task, as for lm_eval")
    single.add_argument("--sample", type=int, default=16, help="prompts to look at; 0: all (16)")
    single.add_argument("--metadata", default="{}", help="JSON for the tasks, as for lm_eval")
    plan.set_defaults(run=_plan, run_study=plan.get_default("run"))


def _export(options: argparse.Namespace) -> int:
    from ctxbench.models.export import export_checkpoint

    asked = parse_pairs(options.option, "--option")
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


def _plan(options: argparse.Namespace) -> int:
    if not options.tasks:
        return options.run_study(options)
    import json

    from ctxbench.models.cost import describe_cost, evaluation_cost

    if options.name or not options.model:
        raise ValueError(
            f"--tasks plans a single evaluation and needs --model, not a study "
            f"({options.name or 'no --model'}). Give either STUDY, or --model M --tasks T."
        )
    try:
        metadata = json.loads(options.metadata)
    except ValueError as error:
        raise ValueError(
            f"--metadata {options.metadata!r} is not JSON ({error}). Give for example "
            """--metadata '{"samples": 50}'."""
        ) from error
    asked = parse_pairs(options.option, "--option")
    if options.length is not None:
        asked["length"] = options.length
    cost = evaluation_cost(
        options.model,
        [name for text in options.tasks for name in text.split(",") if name],
        options.method,
        dtype=options.dtype,
        device="cpu" if options.model in BUNDLED_MODELS else options.gpu,
        mfu=options.mfu,
        limit=options.limit,
        sample=options.sample,
        metadata=metadata,
        **asked,
    )
    print("\n".join(describe_cost(cost)))
    return int(any(task.unfit for task in cost.tasks))
