"""The configuration of a training run: one flat, typed dataclass whose defaults are the paper's.

Lu et al. 2024 (https://arxiv.org/abs/2409.12181), section 4 and Table 7: one billion tokens at
length 32768, 32 sequences per update, learning rate 2e-5, no weight decay, linear warm-up. What the
paper leaves out (betas, clipping, 20 warm-up steps) is what its script ran with:
Leooyii/LCEG@2ce672d continuous_finetuning/finetune.sh.

Values come from the defaults, then a recipe, then the command line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctxbench.core.assets import resolve_model
from ctxbench.core.settings import Count, Length, NotNegative, Share, Tokens, Whole, read_values
from ctxbench.methods.base import Method
from ctxbench.methods.registry import class_and_options
from ctxbench.train.recipes import read_recipe


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The first steps of a run on shorter rows: the same tokens per update, in more rows.

    Attributes:
        length: tokens per row; divides the run's length.
        steps: updates.
        data: sources of this stage.
    """

    length: Length
    steps: Count
    data: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run.

    Attributes:
        model: checkpoint folder, hub id, or the bundled `mini`
        data: sources SOURCE[:key=value,...][@weight]; a path, a datasets id, or stdlib
        output: folder of the run: the trained model, its checkpoints and metrics
        method: a method or preset (ctxbench ls)
        options: options of the method, as name=value
        init: weights to begin with: the checkpoint's, random, or random with an induction head
        length: tokens per training row, and the model's window afterwards (32768 or 32k)
        tokens: training tokens (1B = 10^9); the default is the paper's 30774 rows of 32768
        batch_size: rows per update over all devices and micro-steps
        micro_batch_size: rows per forward pass on one device; accumulation follows from it
        stages: first steps on shorter rows (recipe files only)
        seed: decides order, documents, dropout
        optimizer: adamw, or muon for the matrices of the layers and adamw at 0.3 lr for the rest
        lr: peak learning rate
        own_lr: of what a method adds to the weights (CLEX's equation), as a share of lr
        betas: of AdamW
        eps: of AdamW
        weight_decay: on matrices only
        clip: largest gradient norm; 0 for none
        schedule: what follows the warm-up
        warmup: steps
        warmup_shape: linear, log, or deepspeed: log a step later, behind an update at the peak
        hold: share of all steps before the decay begins, warm-up included
        final_lr: learning rate at the end, as a share of the peak
        ema_decay: of a moving average of the weights, which is then exported; 0 for none
        dtype: of the computation; weights and optimizer are always float32
        attention: transformers' attention implementation
        activation_checkpointing: recompute in the backward pass all (full), all but attention, none
        activation_offload: keep what checkpointing saves, the layers' inputs, in host memory
        lora_rank: train low-rank adapters instead of all weights; 0 for all weights
        lora_alpha: scale of the adapters
        lora_targets: names of the adapted linear layers (Phi's attention has dense for o_proj)
        lora_also: parts of names of parameters trained whole beside the adapters
        document_mask: keep documents packed into one row apart (the paper does not)
        shard: GPUs that hold one copy of weights, gradients and optimizer (FSDP2); 1 for DDP
        sequence_parallel: processes that share each row, for rows too long for one
        processes: on this machine; under torchrun or accelerate launch, another number is an error
        save_every: steps between checkpoints; 0 for none but on SIGTERM
        keep_checkpoints: newest ones kept
        resume: auto continues from the newest valid checkpoint of the same run; never starts anew
        eval_data: sources for perplexity during training
        eval_lengths: lengths to measure it at, tokens
        eval_every: steps between measurements; 0 for the end only
        eval_rows: rows per length
        trackers: Accelerate's names: tensorboard, wandb, ...
    """

    model: str = ""
    data: tuple[str, ...] = ()
    output: str = ""
    method: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    init: Literal["pretrained", "random", "induction"] = "pretrained"

    length: Length = 32768
    tokens: Tokens = 30774 * 32768
    batch_size: Count = 32
    micro_batch_size: Count = 1
    stages: tuple[Stage, ...] = ()
    seed: Whole = 0

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: NotNegative = 2e-5
    own_lr: NotNegative = 1.0
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: NotNegative = 1e-8
    weight_decay: NotNegative = 0.0
    clip: NotNegative = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Whole = 20
    warmup_shape: Literal["linear", "log", "deepspeed"] = "linear"
    hold: Share = 0.0
    final_lr: Share = 0.0
    # The paper says EMA but gives no decay, and its code has none. At its code's 120 updates a
    # decay of 0.999 would leave 89 % of the base model's weights in the average.
    ema_decay: Share = 0.0

    dtype: Literal["bf16", "fp32"] = "bf16"
    attention: str | None = None
    activation_checkpointing: Literal["full", "selective", "none"] = "full"
    activation_offload: bool = False
    lora_rank: Whole = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    lora_also: tuple[str, ...] = ()
    document_mask: bool = False

    shard: Count = 1
    sequence_parallel: Count = 1
    processes: Count | None = None
    save_every: Whole = 100
    keep_checkpoints: Count = 2
    resume: Literal["auto", "never"] = "auto"
    eval_data: tuple[str, ...] = ()
    eval_lengths: tuple[Length, ...] = ()
    eval_every: Whole = 0
    eval_rows: Count = 16
    trackers: tuple[str, ...] = ()

    @property
    def tokens_per_step(self) -> int:
        """Tokens per update over all devices."""
        return self.batch_size * self.length

    @property
    def steps(self) -> int:
        """Number of updates: whole batches in `tokens`."""
        return self.tokens // self.tokens_per_step

    def stage(self, step: int) -> Stage:
        """Return the stage of an update (counted from 0)."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return Stage(length=self.length, steps=self.steps, data=self.data)

    def accumulation(self, processes: int) -> int:
        """Return micro-steps per update; `sequence_parallel` processes work on the same rows.

        Raises:
            ValueError: the batch, or the processes, cannot be divided so.
        """
        for name in ("sequence_parallel", "shard"):
            if processes % getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} does not divide the {processes} processes. "
                    f"Allowed: {', '.join(str(n) for n in _divisors(processes))}. Change it or the "
                    "number of processes."
                )
        processes //= self.sequence_parallel
        per_pass = processes * self.micro_batch_size
        if self.batch_size % per_pass:
            per_process = self.batch_size // processes if not self.batch_size % processes else 0
            fits = _divisors(per_process)
            groups = f"groups of {self.sequence_parallel} " if self.sequence_parallel > 1 else ""
            raise ValueError(
                f"batch_size={self.batch_size} rows per update do not divide over {processes} "
                f"{groups}processes with micro_batch_size={self.micro_batch_size}. Allowed "
                f"micro_batch_size: {', '.join(map(str, fits)) or 'none'}. "
                "Change it, batch_size, or the number of processes."
            )
        return self.batch_size // per_pass


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


_NOT_IN_HASH = {
    "output", "micro_batch_size", "activation_checkpointing", "activation_offload", "shard",
    "sequence_parallel", "processes", "save_every", "keep_checkpoints", "resume",
    "eval_data", "eval_lengths", "eval_every", "eval_rows", "trackers",
}  # fmt: skip
"""Fields that do not decide the weights (but for rounding): a resumed run may change them."""


def decisive_settings(values: Mapping[str, Any], places: bool = False) -> dict[str, Any]:
    """Return the fields that decide the weights, of a config as `as_dict` gives it.

    Args:
        values: all fields.
        places: with the paths of model and data.
    """
    kept = {k: v for k, v in values.items() if k not in _NOT_IN_HASH}
    if not places:
        kept = {k: v for k, v in kept.items() if k not in ("model", "data")}
        kept["stages"] = [{**stage, "data": None} for stage in kept["stages"]]
    return kept


def config_hash(config: TrainConfig) -> str:
    """Return 16 hex digits over the fields that decide the weights."""
    kept = decisive_settings(as_dict(config), places=True)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """Return the config as YAML and JSON have it (tuples as lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def make_config(recipe: str | None = None, values: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the config of a recipe with values (of the command line) over it.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        values: field -> value; text is converted to the field's type.

    Raises:
        ValueError: unknown, ignored or impossible values.
        FileNotFoundError: no such recipe.
    """
    from_recipe = read_values(
        TrainConfig, read_recipe(recipe) if recipe else {}, f"recipe {recipe}", text=True
    )
    values = read_values(TrainConfig, values or {}, text=True)
    merged = {**from_recipe, **values}
    if "options" in from_recipe and "options" in values and "method" not in values:
        merged["options"] = {**from_recipe["options"], **values["options"]}
    config = TrainConfig(**merged)
    _check_ignored(config, set(from_recipe), set(values))
    _check_values(config)
    return config


# ------------------------------------------------------------------- checking


def _keeps_activations(config: TrainConfig) -> bool:
    return config.activation_checkpointing == "none"


def _has_no_tensors(config: TrainConfig) -> bool:
    cls, _ = class_and_options(config.method)
    return cls.state_tensors is Method.state_tensors


def _selects_nothing(config: TrainConfig) -> bool:
    """Only the output of a fused attention kernel is worth keeping."""
    return config.activation_checkpointing == "selective" and config.attention == "eager"


_IGNORED: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("lora_alpha", "lora_rank", lambda c: c.lora_rank == 0),
    ("lora_targets", "lora_rank", lambda c: c.lora_rank == 0),
    ("lora_also", "lora_rank", lambda c: c.lora_rank == 0),
    ("warmup_shape", "warmup", lambda c: c.warmup == 0),
    ("hold", "schedule", lambda c: c.schedule == "constant"),
    ("final_lr", "schedule", lambda c: c.schedule == "constant"),
    ("final_lr", "hold", lambda c: c.hold == 1),
    ("own_lr", "method", _has_no_tensors),
    ("activation_checkpointing", "attention", _selects_nothing),
    ("activation_offload", "activation_checkpointing", _keeps_activations),
    ("keep_checkpoints", "save_every", lambda c: c.save_every == 0),
    ("eval_lengths", "eval_data", lambda c: not c.eval_data),
    ("eval_every", "eval_data", lambda c: not c.eval_data),
    ("eval_rows", "eval_data", lambda c: not c.eval_data),
)
"""(field, the field that switches it off, when)."""


def _check_ignored(config: TrainConfig, in_recipe: set[str], in_values: set[str]) -> None:
    defaults = TrainConfig()
    for name, switch, is_off in _IGNORED:
        # A recipe may state a default (a saved config states all) or be switched off by the user.
        differs = getattr(config, name) != getattr(defaults, name)
        by_recipe = name in in_recipe and switch not in in_values and differs
        # and recipes serve every method
        is_given = name in in_values or (by_recipe and switch != "method")
        if is_given and is_off(config):
            raise ValueError(
                f"{name}={getattr(config, name)!r} would be ignored, because "
                f"{switch}={getattr(config, switch)!r}. Change {switch} or leave out {name}."
            )


def _check_output(config: TrainConfig) -> None:
    """Refuse to train into what is read: the model's folder, or a folder of data.

    Raises:
        ValueError: the output is there.
    """
    output = _whole_path(config.output)
    base = _whole_path(resolve_model(config.model))
    sources = {_whole_path(re.split("[:@]", source, maxsplit=1)[0]) for source in config.data}
    inside = base.is_dir() and base in (output, *output.parents)
    if inside or any(source.exists() and source == output for source in sources):
        read = f"model {config.model}" if inside else f"data {' '.join(config.data)}"
        raise ValueError(
            f"output={config.output} is in the run's {read}, which it would overwrite. Give a "
            "folder of its own: --output FOLDER."
        )


def _whole_path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _check_values(config: TrainConfig) -> None:
    for name, how in (
        ("model", "--model PATH_OR_ID"),
        ("data", "--data SOURCE"),
        ("output", "--output FOLDER"),
    ):
        if not getattr(config, name):
            raise ValueError(f"No {name} was given. Every run needs one. Add {how}.")
    _check_output(config)
    if config.optimizer == "muon" and config.shard > 1:
        raise ValueError(
            f"optimizer=muon with shard={config.shard}: Muon needs whole matrices, and sharding "
            "cuts them. Use --optimizer adamw or --shard 1."
        )
    if len(config.betas) != 2:
        raise ValueError(f"betas={config.betas} is not allowed; give two numbers: --betas 0.9 0.95")
    if config.steps < 1:
        raise ValueError(
            f"tokens={config.tokens} is less than one update of batch_size={config.batch_size} "
            f"rows of {config.length} tokens ({config.tokens_per_step} tokens). Give more tokens, "
            "a smaller batch_size or a shorter length."
        )
    if config.warmup >= config.steps:
        raise ValueError(
            f"warmup={config.warmup} steps, but the run has {config.steps} "
            f"({config.tokens} tokens). Give fewer warm-up steps or more tokens."
        )
    if sum(stage.steps for stage in config.stages) >= config.steps:
        raise ValueError(
            f"The stages take all of the run's {config.steps} steps. Give more tokens or shorter "
            "stages."
        )
    for stage in config.stages:
        if config.length % stage.length:
            raise ValueError(
                f"A stage of length {stage.length} does not divide length={config.length}. Give a "
                "divisor."
            )
    if config.eval_data and not config.eval_lengths:
        raise ValueError(
            "eval_data was given without eval_lengths, so nothing would be measured. Add "
            f"--eval-lengths {config.length}."
        )
