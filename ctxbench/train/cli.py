"""`ctxbench-train`: the command line over recipe over defaults."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from typing import NoReturn

from ctxbench.core.errors import near_names, user_message
from ctxbench.core.settings import add_arguments, parse_pairs
from ctxbench.methods.registry import list_methods, list_presets
from ctxbench.train.config import TrainConfig, as_dict, config_hash, make_config
from ctxbench.train.recipes import list_recipes

_NOT_ON_COMMAND_LINE = ("stages", "options")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See ctxbench-train --help.")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser: one argument per field of `TrainConfig`."""
    parser = _Parser(
        prog="ctxbench-train",
        description="Train a model at a longer context by one fixed recipe, with any method.",
        epilog="Defaults are the paper's (arXiv 2409.12181). Several processes: "
        "--processes N here; torchrun or accelerate launch with -m ctxbench.train anywhere.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--recipe", default=None, help=f"{', '.join(list_recipes())}, or a .yaml file"
    )
    parser.add_argument(
        "--dry-run", action="store_true", default=False,
        help="print steps, tokens, memory and hours, and stop",
    )  # fmt: skip
    parser.add_argument(
        "--option", action="append", metavar="NAME=VALUE", help="an option of the method"
    )
    methods = f": {', '.join([*list_methods(), *list_presets()])}"
    add_arguments(parser, TrainConfig, _NOT_ON_COMMAND_LINE, method=methods)
    return parser


def parse_arguments(arguments: list[str]) -> tuple[TrainConfig, str | None, bool]:
    """Return the config, the recipe's name and whether it is a dry run.

    Raises:
        ValueError: unknown, ignored or impossible arguments.
        FileNotFoundError: no such recipe.
    """
    parser = make_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = re.findall(r"--[a-z-]+", parser.format_usage())
        raise ValueError(
            f"{unknown[0]!r} is no argument{near_names(unknown[0], flags)} "
            "See ctxbench-train --help."
        )
    values = vars(known)
    recipe, dry = values.pop("recipe"), values.pop("dry_run")
    if pairs := values.pop("option", None):
        values["options"] = parse_pairs(pairs, "--option")
    if recipe is None and "method" in values and not {"model", "data"} & values.keys():
        recipe = "mini"
        values.setdefault("output", f"mini-{values['method']}")
        print(
            f"No model and no data were given: the bundled model is trained by --recipe mini into "
            f"{values['output']}. A real one: --model FOLDER_OR_ID --data SOURCE --output FOLDER",
            file=sys.stderr,
        )
    return make_config(recipe, values), recipe, dry


def run(arguments: list[str]) -> None:
    """Do what the arguments say.

    Raises:
        ValueError, FileNotFoundError: what cannot be done, and what to do.
    """
    config, recipe, dry = parse_arguments(arguments)
    launching = (config.processes or 1) > 1 and "WORLD_SIZE" not in os.environ
    if dry or not (launching or int(os.environ.get("RANK", 0))):
        _print_config(config)
    if dry:
        from ctxbench.train.cost import describe_cost, training_cost

        processes = config.processes or int(os.environ.get("WORLD_SIZE", 1))
        print("\n".join(describe_cost(config, training_cost(config), processes)))
        return
    if launching:
        _launch(config.processes or 1, arguments)
    import torch

    from ctxbench.train.loop import train

    try:
        train(config, recipe=recipe, command=shlex.join(["ctxbench-train", *arguments]))
    except torch.OutOfMemoryError as error:
        raise ValueError(_memory_advice(config, error)) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _launch(processes: int, arguments: list[str]) -> NoReturn:
    """Become a torchrun of this command, on this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "ctxbench.train", *arguments])


def main() -> None:
    """Run as a command: errors of the user's are one message and status 2."""
    try:
        run(sys.argv[1:])
    except (ValueError, OSError) as error:
        message = user_message(error)
        if message is None or os.environ.get("CTXBENCH_TRACEBACK"):
            raise
        print(f"ctxbench-train: {message}", file=sys.stderr)
        sys.exit(2)


def _print_config(config: TrainConfig) -> None:
    import yaml

    print(yaml.safe_dump(as_dict(config), sort_keys=False), end="")
    print(f"# settings hash {config_hash(config)}", flush=True)


def _memory_advice(config: TrainConfig, error: BaseException) -> str:
    knobs = [
        f"--micro-batch-size {config.micro_batch_size // 2}" if config.micro_batch_size > 1 else "",
        "" if config.activation_checkpointing == "full" else "--activation-checkpointing full",
        "" if config.lora_rank else "--lora-rank 8 (trains adapters; optimizer memory almost nil)",
        "--ema-decay 0" if config.ema_decay else "",
        "--dtype bf16" if config.dtype == "fp32" else "",
        "" if config.activation_offload else "--activation-offload",
        "--shard N over N GPUs (weights, gradients and optimizer)",
        "--sequence-parallel N over N GPUs (activations)",
        "a shorter --length",
        "a GPU with more memory",
    ]
    return (
        f"Out of memory: {str(error).splitlines()[0]} What helps, in this order: "
        f"{'; '.join(filter(None, knobs))}. --dry-run says where the memory goes."
    )
