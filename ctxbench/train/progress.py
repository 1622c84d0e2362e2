"""What a run shows while it runs: loss, tokens per second, MFU, time left, memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from ctxbench.train.config import TrainConfig
from ctxbench.train.cost import flops_per_token, peak_flops

if TYPE_CHECKING:
    from accelerate import Accelerator

_LINES = 20
"""Lines printed over a run where there is no terminal."""


class Progress:
    """A live line on a terminal, plain lines elsewhere; silent on other ranks than the first."""

    def __init__(self, config: TrainConfig, model, accelerator: Accelerator, first_step: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.config = config
        self.accelerator = accelerator
        self.console = Console(quiet=not accelerator.is_main_process, highlight=False, stderr=True)
        self.flops = flops_per_token(model, config.length)
        self.peak = peak_flops(accelerator.device)
        self._began, self._first = time.perf_counter(), first_step
        columns = (
            TextColumn("step"), MofNCompleteColumn(), BarColumn(),
            TextColumn("{task.description}"), TimeRemainingColumn(),
        )  # fmt: skip
        live = self.console.is_terminal and accelerator.is_main_process
        self._bar = Bar(*columns, console=self.console, disable=not live)
        self._task = self._bar.add_task("", total=config.steps, completed=first_step)

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def update(self, metrics: dict[str, Any]) -> None:
        """Show the metrics of a step and send them to the trackers; adds speed and memory."""
        world = self.accelerator.num_processes
        speed = self.config.tokens_per_step / metrics["seconds"]
        metrics["tokens_per_second"] = speed
        metrics["memory_gib"] = used_memory(self.accelerator.device)
        if self.peak:
            metrics["mfu"] = speed * self.flops / (self.peak * world)
        if self.config.trackers:
            self.accelerator.log(metrics, step=metrics["step"])
        text = f"loss {metrics['loss']:.4f}  {speed:,.0f} tokens/s  {metrics['memory_gib']:.1f} GiB"
        if "mfu" in metrics:
            text += f"  MFU {metrics['mfu']:.1%}"
        self._bar.update(self._task, completed=metrics["step"], description=text)
        step, steps = metrics["step"], self.config.steps
        perplexities = [f"{k} {v:.2f}" for k, v in metrics.items() if k.startswith("perplexity")]
        if self._bar.disable and (step % max(steps // _LINES, 1) == 0 or perplexities):
            pace = (time.perf_counter() - self._began) / (step - self._first)
            left = f"{(steps - step) * pace:.0f} s left"
            self.say("  ".join([f"step {step}/{steps}  {text}  {left}", *perplexities]))
        elif perplexities:
            self.say(f"step {step}: " + "  ".join(perplexities))


def used_memory(device: torch.device) -> float:
    """Return the peak memory of this process in GiB: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
