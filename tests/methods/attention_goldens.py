"""Reading golden/attn: models with given weights, and what the official code computed."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from ctxbench.models.loading import extend

ARCHITECTURES = {"llama": (LlamaConfig, LlamaForCausalLM), "phi": (PhiConfig, PhiForCausalLM)}


class Golden:
    """One file of golden/attn."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder / "attn"
        self.info = json.loads((self.folder / f"{name}.json").read_text())
        self.tensors = load_file(self.folder / f"{name}.safetensors")
        self.cases = {case["key"]: case for case in self.info["cases"]}

    def model(self, dtype=torch.float64):
        """The plain model with the golden weights."""
        config_class, model_class = ARCHITECTURES[self.info.get("arch", "llama")]
        raw = dict(self.info["config"])
        rope = {"rope_type": "default", "rope_theta": raw.pop("rope_theta")}
        if "partial_rotary_factor" in raw:
            rope["partial_rotary_factor"] = raw.pop("partial_rotary_factor")
        raw.pop("rope_scaling", None)
        raw.pop("mem_id", None)
        model = model_class(config_class(**raw, rope_parameters=rope)).eval()
        model.load_state_dict(load_file(self.folder / self.info["weights_file"]))
        return model.to(dtype)

    def extended(self, method: str, dtype=torch.float64, **options):
        """The model with one of our methods."""
        return extend(self.model(dtype), method, **options)

    def get(self, case: dict, name: str) -> torch.Tensor:
        """A tensor of a case."""
        return self.tensors[f"{case['key']}.{name}" if case["key"] else name]


TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-5}
"""Goldens are stored in float32, and RMSNorm and cos/sin are float32 inside on both sides."""


def assert_matches(actual: torch.Tensor, expected: torch.Tensor, dtype=torch.float64):
    """Compare logits or gradients (size about 1): the largest difference, in bfloat16 the mean."""
    if dtype == torch.bfloat16:
        assert (actual.double() - expected.double()).abs().mean() < 0.02
        return
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=0, atol=TOLERANCE.get(dtype, 1e-5)
    )
