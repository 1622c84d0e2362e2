"""The processes of a run: how they were launched, what they share, how they talk.

Data parallel by DDP; or with weights, gradients and optimizer cut over GPUs (FSDP2), by
Accelerate. Rows too long for one process are shared by groups of them (sequence.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor

from ctxbench.core.compat.accelerate import ENTRIES as OF_ACCELERATE
from ctxbench.core.compat.foreign import check
from ctxbench.train.config import TrainConfig, as_dict
from ctxbench.train.sequence import SequenceParallel

if TYPE_CHECKING:
    from accelerate import Accelerator


_PATIENCE = timedelta(days=7)
"""For what one process does alone: tokenising, exporting. Collectives of training wait minutes."""


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Return the Accelerator of this process.

    Raises:
        ValueError: the launcher's settings are not the config's.
    """
    from accelerate import Accelerator

    check(OF_ACCELERATE)
    _check_launcher(config)
    _check_trackers(config)
    # Without cpu=True Accelerate takes torchrun's CPU ranks for independent processes.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # CausalLoss chooses, over float32 weights
        log_with=list(config.trackers) or None,
        project_dir=config.output,
        **(_sharding(config) if config.shard > 1 else {}),
    )
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # the plugin's, and read as the launcher's
    asked, found = config.processes, accelerator.num_processes
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if (asked is not None and asked != found) or launched != found:
        raise ValueError(
            f"processes={asked} and WORLD_SIZE={launched}, but {found} run together. Launch with "
            f"torchrun --nproc-per-node {asked or launched} -m ctxbench.train ..., or accelerate "
            "launch --multi_gpu --num_processes N -m ctxbench.train ... (on CPUs too: accelerate "
            "launch --cpu starts one process whatever it is told)."
        )
    if config.shard > 1 and not accelerator.is_fsdp2:
        raise ValueError(
            f"shard={config.shard} needs as many GPUs; this run has {found} process(es) on "
            f"{accelerator.device.type}. Launch more processes on GPUs, or give --shard 1."
        )
    if config.trackers:
        accelerator.init_trackers("ctxbench", {k: str(v) for k, v in as_dict(config).items()})
    return accelerator


class Ranks:
    """This process among the others.

    Attributes:
        world: number of processes.
        rank: of this one.
        data: number of groups that each work on rows of their own.
        data_rank: of this process's group.
        sequence: the processes that share its rows.
        sharded: whether weights are cut over processes by FSDP2.
        deepspeed: whether DeepSpeed runs the optimizer.
    """

    def __init__(self, accelerator: Accelerator, config: TrainConfig):
        self.accelerator = accelerator
        self.world, self.rank = accelerator.num_processes, accelerator.process_index
        self.sharded = accelerator.is_fsdp2
        self.deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        self.config = config
        size = config.sequence_parallel
        self.data, self.data_rank = self.world // size, self.rank // size
        self._patient = None
        if self.world > 1:
            self._patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        group = None
        if size > 1:
            groups = [list(range(at, at + size)) for at in range(0, self.world, size)]
            group, _ = dist.new_subgroups_by_enumeration(groups)
        self.sequence = SequenceParallel(size, self.rank % size, group)

    @property
    def main(self) -> bool:
        """Whether this process writes what one process has to write."""
        return self.rank == 0

    def prepare(self, network: nn.Module, optimizers: list) -> tuple[nn.Module, list]:
        """Return the network wrapped for its processes, on its device, and its optimizers.

        Sharding takes the weights from host memory layer by layer: the whole model is never on one
        GPU.
        """
        if self.deepspeed:
            self._tell_deepspeed()
        if not self.sharded:
            network.to(self.accelerator.device)
        wrapped, *prepared = self.accelerator.prepare(network, *optimizers)
        return wrapped, prepared

    def _tell_deepspeed(self) -> None:
        settings: Any = self.accelerator.state.deepspeed_plugin.deepspeed_config  # type: ignore[union-attr]
        settings["train_micro_batch_size_per_gpu"] = self.config.micro_batch_size
        settings["gradient_clipping"] = self.config.clip
        settings["gradient_accumulation_steps"] = 1  # the loop weighs and counts itself

    def holds_back(self, last: bool) -> bool:
        """Return whether gradients stay here after a micro-step, until the last one.

        Sharded ones do not: held back they would be whole on every GPU. DeepSpeed steps in the
        backward pass in which Accelerate says that gradients are synchronised.
        """
        self.accelerator.sync_gradients = last
        return not last and not self.sharded and not self.deepspeed

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over processes."""
        total = self.accelerator.reduce(values.to(self.accelerator.device), "sum")
        assert isinstance(total, torch.Tensor)
        return total

    def gather(self, value: Any, patient: bool = False) -> list:
        """Return the value of every process, in order; all have to ask.

        Args:
            value: of this one.
            patient: some may take hours until they ask.
        """
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self._patient if patient else None)
        return found

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a block on the first process, then on the others, however long it takes."""
        if not self.main:
            self.gather(None, patient=True)
        try:
            yield
        finally:
            if self.main:
                self.gather(None, patient=True)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor gathered from the processes it is cut over; all have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharding(config: TrainConfig) -> dict[str, Any]:
    """Return Accelerate's arguments: FSDP2, each decoder layer by itself."""
    from accelerate import FullyShardedDataParallelPlugin, ParallelismConfig

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )
    copies = int(os.environ.get("WORLD_SIZE", 1)) // config.shard
    if copies <= 1:
        return {"fsdp_plugin": plugin}
    sizes = ParallelismConfig(dp_replicate_size=copies, dp_shard_size=config.shard)
    return {"fsdp_plugin": plugin, "parallelism_config": sizes}


def _uses(name: str) -> bool:
    """Return whether accelerate launch chose something."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("true", "1")


def _check_trackers(config: TrainConfig) -> None:
    """Refuse trackers that Accelerate would drop because their package is not installed."""
    from accelerate.tracking import get_available_trackers

    there = [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]
    missing = [name for name in config.trackers if name not in (*there, "all")]
    if missing:
        raise ValueError(
            f"trackers={', '.join(config.trackers)}, but the package of {', '.join(missing)} is "
            f"not installed, so nothing would be logged there. Installed are "
            f"{', '.join(there) or 'none'}. pip install {' '.join(missing)}, or leave it out of "
            "--trackers."
        )


def _check_launcher(config: TrainConfig) -> None:
    """Refuse what accelerate launch was told and this run would not do."""
    for name in ("FSDP", "MEGATRON_LM"):
        if _uses(name):
            raise ValueError(
                f"accelerate launch chose {name}, which ctxbench-train does not run. It runs on "
                "one process, with DDP, or with FSDP2 that it sets up itself. Use --multi_gpu in "
                "the accelerate config and --shard N here."
            )
    plain = config.save_every == 0 and not config.ema_decay and config.optimizer == "adamw"
    if _uses("DEEPSPEED") and not (plain and config.shard == 1):
        raise ValueError(
            "Under DeepSpeed, whose optimizer keeps its state to itself, ctxbench-train writes no "
            "checkpoints and no moving average. Give --save-every 0 --ema-decay 0 --optimizer "
            "adamw --shard 1, or use --multi_gpu in the accelerate config and --shard N, which has "
            "them."
        )
    for name, ours in (("MIXED_PRECISION", config.dtype), ("GRADIENT_ACCUMULATION_STEPS", "1")):
        theirs = os.environ.get(f"ACCELERATE_{name}", ours)
        if theirs not in (ours, "no", "1"):
            raise ValueError(
                f"accelerate launch was told {name.lower()}={theirs}, which would be ignored: "
                f"ctxbench-train has --dtype ({config.dtype} now) and derives accumulation from "
                "--batch-size. Leave it out of the accelerate config."
            )
