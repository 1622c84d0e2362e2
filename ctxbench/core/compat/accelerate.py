"""What is used of accelerate beyond what it promises."""

from ctxbench.core.compat.foreign import Foreign, Library, Mention

ACCELERATE = Library("accelerate", "1.15", "accelerate>=1.15,<1.16")

_LAYERS = "shard the decoder layers one by one: `CausalLoss` names them so"
_LAUNCHER = "refuse what accelerate launch was told and would be ignored"
_PLACED = Mention(
    ACCELERATE, "accelerate.hooks", "add_hook_to_module",
    "tell a layer that was put on another device from one with a forward of its own", "_hf_hook",
)  # fmt: skip
ENTRIES = (
    Foreign(
        ACCELERATE, "accelerate", "Accelerator.sync_gradients.fset",
        "say when gradients are reduced",
    ),
    Foreign(ACCELERATE, "accelerate", "Accelerator.is_fsdp2", "know that weights are sharded"),
    Mention(
        ACCELERATE, "accelerate.utils.fsdp_utils", "fsdp2_prepare_auto_wrap_policy", _LAYERS,
        "_no_split_modules",
    ),
    Mention(
        ACCELERATE, "accelerate", "Accelerator.__init__", _LAUNCHER, "ACCELERATE_USE_FSDP",
    ),
    Mention(
        ACCELERATE, "accelerate", "Accelerator.__init__", _LAUNCHER, "ACCELERATE_USE_DEEPSPEED",
    ),
    Mention(
        ACCELERATE, "accelerate.state", "AcceleratorState.__init__", _LAUNCHER,
        "ACCELERATE_USE_MEGATRON_LM",
    ),
    Mention(
        ACCELERATE, "accelerate.state", "AcceleratorState.__init__", _LAUNCHER,
        "ACCELERATE_MIXED_PRECISION",
    ),
    _PLACED,
)  # fmt: skip
"""Found before a training run begins."""


def is_placed(module: object) -> bool:
    """Return whether a module was given a device, and so a `forward` that moves its inputs."""
    return hasattr(module, _PLACED.word)
