"""The training loop, top to bottom.

Everything random is a function of (seed, step) and everything else is in the checkpoint, so a run
that was killed and resumed gives the same losses bit for bit; and one process gives the losses of
many, to rounding.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ctxbench.methods.attach import method_of
from ctxbench.train.build import build_model, make_optimizers, trainable_model, trained_tensors
from ctxbench.train.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from ctxbench.train.config import Stage, TrainConfig, as_dict, config_hash
from ctxbench.train.data import Mixture, open_mixture
from ctxbench.train.ema import MovingAverage
from ctxbench.train.evaluate import perplexities
from ctxbench.train.export import export_model
from ctxbench.train.loss import CausalLoss, scored_tokens
from ctxbench.train.progress import Progress
from ctxbench.train.schedule import learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator

STOPPED = 143
"""Exit status after SIGTERM (128 + 15): saved, not finished."""


def train(config: TrainConfig, *, recipe: str | None = None, command: str = "") -> Path:
    """Train a model and return the folder of the result.

    Args:
        config: of the run.
        recipe: its name, for the model card.
        command: what was typed, for the model card.

    Raises:
        ValueError: settings that contradict each other, the model, the data or the launcher.
        SystemExit: with status 143 after SIGTERM, when a checkpoint has been written.
    """
    output = Path(config.output)
    accelerator = start_accelerator(config)
    world, rank, main = (
        accelerator.num_processes, accelerator.process_index, accelerator.is_main_process,
    )  # fmt: skip
    accumulation = config.accumulation(world)

    model, tokenizer = build_model(config)
    method = method_of(model)
    network = CausalLoss(
        trainable_model(model, config), torch.bfloat16 if config.dtype == "bf16" else torch.float32
    ).to(accelerator.device)
    trained = trained_tensors(network.model)
    optimizers = make_optimizers(config, network.model)
    average = MovingAverage(config.ema_decay, trained)
    with accelerator.main_process_first():  # the first tokenises, the others read its cache
        data = [_open(config, stage, tokenizer) for stage in _stages(config)]
        held_out = None
        if config.eval_data:
            held_out = open_mixture(config.eval_data, tokenizer, seed=config.seed)

    info = {
        "config": as_dict(config),
        "config_hash": config_hash(config),
        "data": [mixture.fingerprint for mixture in data],
    }
    first = 0
    if checkpoint := _checkpoint_to_resume(config, info, accelerator):
        first = checkpoint.step
        _restore(checkpoint, trained, optimizers, average)
    wrapped, *optimizers = accelerator.prepare(network, *optimizers)
    parameters = [p for p in network.parameters() if p.requires_grad]
    progress = Progress(config, model, accelerator, first_step=first)
    if main:
        _write_config(output, config, recipe, command)
        _drop_metrics_after(output / "metrics.jsonl", first)

    with progress, _sigterm() as stop_asked:
        for step in range(first, config.steps):
            began = time.perf_counter()
            stage = config.stage(step)
            rows = config.micro_batch_size * (config.length // stage.length)
            batches = []
            for micro in range(accumulation):
                # Slot = place of this micro-batch in the update. One process with accumulation 2
                # and two processes have the same slots, so the same rows and the same draws.
                slot = rank * accumulation + micro
                number = _step_in_stage(config, step) * accumulation * world + slot
                batch = data[_stage_number(config, step)].batch(number * rows, rows, stage.length)
                generator = torch.Generator().manual_seed(_seed(config, step, slot))
                batches.append(method.edit_batch(batch, generator))

            # Weighted by tokens: every rank divides by the weight of the whole update.
            weight = sum(scored_tokens(batch)[1].sum().item() for batch in batches)
            totals = torch.tensor([weight, float(stop_asked())], dtype=torch.float64)
            weight, stop = _total(accelerator, totals).tolist()

            rate = learning_rate(config, step)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["scale"]

            loss = torch.zeros((), device=accelerator.device)
            for micro, batch in enumerate(batches):
                torch.manual_seed(_seed(config, step, rank * accumulation + micro))  # dropout
                batch = {k: v.to(accelerator.device) for k, v in batch.items()}
                last = micro == accumulation - 1
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    part = wrapped(batch) / weight
                    accelerator.backward(part * world)  # DDP averages over ranks; we want the sum
                loss += part.detach()
            loss = _total(accelerator, loss).item()
            norm = accelerator.clip_grad_norm_(parameters, config.clip or float("inf"))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update(step)

            done = step + 1
            metrics: dict[str, Any] = {
                "step": done,
                "tokens": done * config.tokens_per_step,
                "loss": loss,
                "grad_norm": float(norm),  # type: ignore[arg-type]
                "lr": rate,
            }
            if held_out and _is_due(done, config.eval_every, config.steps):
                metrics |= perplexities(network, held_out, config, accelerator)
            metrics["seconds"] = time.perf_counter() - began
            if not np.isfinite(loss):
                raise ValueError(
                    f"The loss is {loss} at step {done}. Lower --lr ({config.lr} now) or lengthen "
                    "--warmup, and begin again with another --output."
                )
            progress.update(metrics)
            if main:
                _append(output / "metrics.jsonl", metrics)
            due = config.save_every and _is_due(done, config.save_every, config.steps)
            if main and (due or stop):
                save_checkpoint(
                    output / "checkpoints",
                    {"step": done, **info},
                    {"weights": trained, "average": average.tensors},
                    [optimizer.state_dict() for optimizer in optimizers],
                    config.keep_checkpoints,
                )
            if stop:
                accelerator.wait_for_everyone()
                progress.say(f"SIGTERM: saved at step {done} of {config.steps}.")
                raise SystemExit(STOPPED)

    accelerator.wait_for_everyone()
    if main:
        average.install(trained)
        export_model(config, network.model, tokenizer, recipe=recipe, command=command)
        progress.say(f"Trained {config.steps} steps; the model is in {output}.")
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    return output


# ---------------------------------------------------------------------- start


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Return the Accelerator of this process.

    Raises:
        ValueError: the launcher's settings are not the config's.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    # Without cpu=True Accelerate takes torchrun's CPU ranks for independent processes.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # CausalLoss chooses, over float32 weights
        log_with=list(config.trackers) or None,
        project_dir=config.output,
    )
    asked, found = config.processes, accelerator.num_processes
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if (asked is not None and asked != found) or launched != found:
        raise ValueError(
            f"processes={asked} and WORLD_SIZE={launched}, but {found} run together. Launch with "
            f"torchrun --nproc-per-node {asked or launched} -m ctxbench.train ..., or accelerate "
            "launch --multi_gpu --num_processes N -m ctxbench.train ... (on CPUs too: accelerate "
            "launch --cpu starts one process whatever it is told)."
        )
    allowed = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in allowed:
        raise ValueError(
            f"accelerate launch chose {accelerator.distributed_type.value}, which ctxbench-train "
            "does not run. It runs on one process or with DDP (--multi_gpu). Change the accelerate "
            "config."
        )
    for name, ours in (("MIXED_PRECISION", config.dtype), ("GRADIENT_ACCUMULATION_STEPS", "1")):
        theirs = os.environ.get(f"ACCELERATE_{name}", ours)
        if theirs not in (ours, "no", "1"):
            raise ValueError(
                f"accelerate launch was told {name.lower()}={theirs}, which would be ignored: "
                f"ctxbench-train has --dtype ({config.dtype} now) and derives accumulation from "
                "--batch-size. Leave it out of the accelerate config."
            )
    if config.trackers:
        accelerator.init_trackers("ctxbench", {k: str(v) for k, v in as_dict(config).items()})
    return accelerator


def _stages(config: TrainConfig) -> list[Stage]:
    return [*config.stages, config.stage(config.steps)]


def _stage_number(config: TrainConfig, step: int) -> int:
    return sum(step >= end for end in np.cumsum([stage.steps for stage in config.stages]))


def _step_in_stage(config: TrainConfig, step: int) -> int:
    return step - sum(s.steps for s in config.stages[: _stage_number(config, step)])


def _open(config: TrainConfig, stage: Stage, tokenizer) -> Mixture:
    return open_mixture(stage.data, tokenizer, seed=config.seed, document_mask=config.document_mask)


def _total(accelerator: Accelerator, values: torch.Tensor) -> torch.Tensor:
    """Return the sum over ranks."""
    total = accelerator.reduce(values.to(accelerator.device), "sum")
    assert isinstance(total, torch.Tensor)
    return total


def _seed(config: TrainConfig, step: int, slot: int) -> int:
    return int(np.random.SeedSequence([config.seed, step, slot]).generate_state(1)[0])


# ------------------------------------------------------------- resume, record


def _checkpoint_to_resume(
    config: TrainConfig, info: dict[str, Any], accelerator: Accelerator
) -> Checkpoint | None:
    """Return the checkpoint to go on from.

    Raises:
        ValueError: the folder holds another run.
    """
    folder = Path(config.output) / "checkpoints"
    warn = accelerator.print
    checkpoint = find_checkpoint(folder, warn)
    accelerator.wait_for_everyone()
    if checkpoint is None:
        return None
    if config.resume == "never":
        raise ValueError(
            f"resume=never, but {folder} holds checkpoints. Remove them, give another --output, or "
            "use --resume auto."
        )
    for key, what in (("config", "settings"), ("data", "data")):
        same = checkpoint.info["config_hash"] == info["config_hash"] or key != "config"
        if not same or (key == "data" and checkpoint.info["data"] != info["data"]):
            theirs, ours = checkpoint.info[key], info[key]
            if isinstance(ours, dict):
                ours = {k: v for k, v in ours.items() if v != theirs.get(k)}
                theirs = {k: theirs.get(k) for k in ours}
            raise ValueError(
                f"{checkpoint.folder} was made with other {what}: {theirs} there, {ours} now. "
                "Give the same, to resume, or another --output, to begin a new run."
            )
    accelerator.print(f"Resumed at step {checkpoint.step} from {checkpoint.folder}.")
    return checkpoint


@torch.no_grad()
def _restore(checkpoint: Checkpoint, trained, optimizers, average: MovingAverage) -> None:
    for name, tensor in checkpoint.tensors("weights").items():
        trained[name].copy_(tensor)
    for optimizer, state in zip(optimizers, checkpoint.optimizers(), strict=True):
        optimizer.load_state_dict(state)
    average.load(checkpoint.tensors("average"))


def _write_config(output: Path, config: TrainConfig, recipe: str | None, command: str) -> None:
    import yaml

    output.mkdir(parents=True, exist_ok=True)
    head = f"# {command}\n# recipe {recipe or 'none'}, settings hash {config_hash(config)}\n"
    text = head + yaml.safe_dump(as_dict(config), sort_keys=False)
    (output / "train.yaml").write_text(text, encoding="utf-8")


def _append(file: Path, metrics: dict[str, Any]) -> None:
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(metrics) + "\n")


def _drop_metrics_after(file: Path, step: int) -> None:
    """Keep the lines of the steps that the run resumes after."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            metrics = json.loads(line)
        except json.JSONDecodeError:  # the process was killed while writing it
            continue
        if metrics["step"] <= step:
            kept.append(line + "\n")
    building = file.with_suffix(".tmp")
    building.write_text("".join(kept), encoding="utf-8")
    os.replace(building, file)


def _is_due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)


@contextmanager
def _sigterm() -> Iterator[Any]:
    """Turn SIGTERM into a question the loop asks once per update."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
