"""The training loop, top to bottom.

Everything random is a function of (seed, step) and everything else is in the checkpoint, so a run
that was killed and resumed gives the same losses bit for bit; and one process gives the losses of
many, to rounding.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jsonlines
import numpy as np
import torch

from ctxbench.methods.attach import method_of
from ctxbench.methods.base import Method
from ctxbench.train.before import check_folders, check_room, check_rows
from ctxbench.train.checkpoint import save_checkpoint
from ctxbench.train.config import Stage, TrainConfig, as_dict, config_hash
from ctxbench.train.data import Mixture, open_mixture
from ctxbench.train.ema import MovingAverage
from ctxbench.train.evaluate import perplexities
from ctxbench.train.export import export_model, gather_weights, reshard
from ctxbench.train.identity import checkpoint_identity
from ctxbench.train.loss import CausalLoss, scored_tokens
from ctxbench.train.model import (
    build_model,
    make_optimizers,
    own_names,
    trainable_model,
    trained_tensors,
)
from ctxbench.train.output_lock import locked
from ctxbench.train.parallel import Ranks, start_accelerator, whole
from ctxbench.train.progress import Progress
from ctxbench.train.reopened import difference, served_loss
from ctxbench.train.resume import checkpoint_to_resume, drop_metrics_after, restore, run_state
from ctxbench.train.schedule import learning_rate
from ctxbench.train.watch import GradientWatch, describe_trained, listed, refuse_bad_weights

Batch = dict[str, torch.Tensor]
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
    with locked(Path(config.output)):
        return _train(config, recipe, command)


def _train(config: TrainConfig, recipe: str | None, command: str) -> Path:
    output = Path(config.output)
    check_folders(config)
    accelerator = start_accelerator(config)
    accumulation = config.accumulation(accelerator.num_processes)
    ranks = Ranks(accelerator, config)

    model, tokenizer = build_model(config)
    method = method_of(model)
    ranks.sequence.install(model, method.head_blocks)
    network = CausalLoss(
        trainable_model(model, config),
        torch.bfloat16 if config.dtype == "bf16" else torch.float32,
        ranks.sequence,
        config.activation_offload,
    )
    wrapped, optimizers = ranks.prepare(network, make_optimizers(config, network.model))
    trained = trained_tensors(network.model)
    average = MovingAverage(config.ema_decay, trained)
    parameters = [p for p in network.parameters() if p.requires_grad]
    with ranks.main_first():  # it tokenises, the others read its cache
        data = [_open(config, stage, tokenizer) for stage in _stages(config)]
        held_out = None
        if config.eval_data:
            held_out = open_mixture(config.eval_data, tokenizer, seed=config.seed)

    notes = check_rows(config, data, held_out)
    check_room(config, network.model, trained, written=not ranks.deepspeed)
    with ranks.main_first():  # it reads the model, the others the digests it keeps
        identity = checkpoint_identity(config.model)
    info = {
        "config": as_dict(config),
        "config_hash": config_hash(config),
        "data": [mixture.fingerprint for mixture in data],
        "content": [mixture.identity for mixture in data],
        "model": identity,
    }
    first = 0
    if checkpoint := checkpoint_to_resume(config, info, ranks):
        first = checkpoint.step
        restore(checkpoint, trained, average, optimizers)
    progress = Progress(config, model, accelerator, first_step=first)
    progress.say("\n".join([*describe_trained(network.model, trained), *notes]))
    watch = GradientWatch(trained, own_names(network.model, trained), ranks)
    if ranks.main:
        _write_config(output, config, recipe, command)
        drop_metrics_after(output / "metrics.jsonl", first)

    def save(step: int) -> None:
        refuse_bad_weights(trained, ranks, step)
        if ranks.deepspeed:
            return
        state = run_state(trained, average, optimizers)
        folder, keep = output / "checkpoints", config.keep_checkpoints
        save_checkpoint(folder, {"step": step, **info}, state, keep, ranks.rank, ranks.gather)

    with progress, _sigterm() as stop_asked:
        for step in range(first, config.steps):
            began = time.perf_counter()
            stage = config.stage(step)
            rows = config.micro_batch_size * (config.length // stage.length)
            batches = []
            for micro in range(accumulation):
                # Slot = place of this micro-batch in the update. One process with accumulation 2
                # and two processes have the same slots, so the same rows and the same draws.
                slot = ranks.data_rank * accumulation + micro
                number = _step_in_stage(config, step) * accumulation * ranks.data + slot
                batch = data[_stage_number(config, step)].batch(number * rows, rows, stage.length)
                generator = torch.Generator().manual_seed(_seed(config, step, slot))
                batches.append(_edited(method, batch, generator))

            # Weighted by tokens: every rank divides by the weight of the whole update. Ranks that
            # share rows count them together.
            weight = sum(scored_tokens(batch)[1].sum().item() for batch in batches)
            totals = torch.tensor([weight, float(stop_asked())], dtype=torch.float64)
            weight, stop = ranks.total(totals).tolist()
            weight /= config.sequence_parallel
            if not weight:
                raise ValueError(
                    f"No token of update {step + 1} is scored: all labels of its rows are -100. "
                    "Give data with labels, or a larger --batch-size."
                )

            rate = learning_rate(config, step)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["scale"]

            loss = torch.zeros((), device=accelerator.device)
            for micro, batch in enumerate(batches):
                slot = ranks.data_rank * accumulation + micro
                torch.manual_seed(_seed(config, step, slot) + ranks.sequence.rank)  # dropout
                batch = {k: v.to(accelerator.device) for k, v in batch.items()}
                hold = ranks.holds_back(micro == accumulation - 1)
                with accelerator.no_sync(wrapped) if hold else nullcontext():
                    part = wrapped(batch) / weight
                    # gradients are averaged over ranks; we want the sum
                    accelerator.backward(part * ranks.world)
                loss += part.detach()
            loss = ranks.total(loss).item()
            norm = accelerator.clip_grad_norm_(parameters, config.clip or float("inf"))
            norm = float(whole(norm))  # type: ignore[arg-type]
            _check_finite(config, step + 1, loss, norm)
            watch.look(rate)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update(step)
            if unmoved := watch.unmoved(trained):
                progress.say(f"Rounding keeps in place, at a rate of {rate:g}: {listed(unmoved)}.")

            done = step + 1
            metrics: dict[str, Any] = {
                "step": done,
                "tokens": done * config.tokens_per_step,
                "loss": loss,
                "grad_norm": norm,
                "lr": rate,
            }
            if held_out and _is_due(done, config.eval_every, config.steps):
                with average.installed():  # of the model that would be exported
                    metrics |= perplexities(network, held_out, config, accelerator)
                    reshard(network)
            metrics["seconds"] = time.perf_counter() - began
            progress.update(metrics)
            if ranks.main:
                with jsonlines.open(output / "metrics.jsonl", "a") as lines:
                    lines.write(metrics)
            due = config.save_every and _is_due(done, config.save_every, config.steps)
            if due or stop:
                save(done)
            if stop:
                accelerator.wait_for_everyone()
                saved = "not saved" if ranks.deepspeed else "saved"
                progress.say(f"SIGTERM: {saved} at step {done} of {config.steps}.")
                raise SystemExit(STOPPED)

    refuse_bad_weights(trained, ranks, config.steps)
    average.swap()
    expected = served_loss(network, data[-1], config)
    gather_weights(network)
    problem = None
    if ranks.main:
        problem = export_model(
            config,
            network.model,
            tokenizer,
            recipe=recipe,
            command=command,
            compare=lambda folder: difference(folder, expected, data[-1], config),
        )
    if problem := ranks.gather(problem, patient=True)[0]:
        average.swap()
        save(config.steps)
        raise ValueError(problem)
    progress.say(f"Trained {config.steps} steps; the model is in {output}.")
    for tracker in accelerator.trackers:
        tracker.finish()
    return output


# --------------------------------------------------------- functions of the step


def _stages(config: TrainConfig) -> list[Stage]:
    return [*config.stages, config.stage(config.steps)]


def _stage_number(config: TrainConfig, step: int) -> int:
    return sum(step >= end for end in np.cumsum([stage.steps for stage in config.stages]))


def _step_in_stage(config: TrainConfig, step: int) -> int:
    return step - sum(s.steps for s in config.stages[: _stage_number(config, step)])


def _open(config: TrainConfig, stage: Stage, tokenizer) -> Mixture:
    return open_mixture(stage.data, tokenizer, seed=config.seed, document_mask=config.document_mask)


def _edited(method: Method, batch: Batch, generator: torch.Generator) -> Batch:
    """Return a batch as the method wants it.

    Raises:
        ValueError: it leaves columns of the data as they are that no longer fit the tokens.
    """
    edited = method.edit_batch(batch, generator)
    length = edited["input_ids"].shape[1]
    if bad := [name for name in batch if edited.get(name, batch[name]).shape[1] != length]:
        raise ValueError(
            f"method={method.name} makes rows of {length} tokens and leaves {', '.join(bad)} of "
            f"the data as they are, so they cannot be used together. Leave out what they come from "
            "(--document-mask), or use another method."
        )
    return edited


def _check_finite(config: TrainConfig, step: int, loss: float, norm: float) -> None:
    """Stop before an update that would make the weights no numbers.

    Raises:
        ValueError: the loss or the norm of the gradients is none.
    """
    what, value = ("loss", loss) if not np.isfinite(loss) else ("norm of the gradients", norm)
    if not np.isfinite(value):
        raise ValueError(
            f"The {what} is {value} at step {step}. Lower --lr ({config.lr} now) or lengthen "
            "--warmup, and begin again with another --output. It must be a number; nothing was "
            "updated, and earlier checkpoints are as they were."
        )


def _seed(config: TrainConfig, step: int, slot: int) -> int:
    return int(np.random.SeedSequence([config.seed, step, slot]).generate_state(1)[0])


# ------------------------------------------------------------------------ record


def _write_config(output: Path, config: TrainConfig, recipe: str | None, command: str) -> None:
    import yaml

    output.mkdir(parents=True, exist_ok=True)
    head = f"# {command}\n# recipe {recipe or 'none'}, settings hash {config_hash(config)}\n"
    text = head + yaml.safe_dump(as_dict(config), sort_keys=False)
    (output / "train.yaml").write_text(text, encoding="utf-8")


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
