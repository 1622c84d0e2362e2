"""What is kept for the backward pass, and what is computed again: the same gradients always."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctxbench.train.activations import checkpoint_activations
from ctxbench.train.loss import CausalLoss
from ctxbench.validate.tiny import tiny_model, tokens


class Counting(TorchDispatchMode):
    """Counts calls of operators by name."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def gradients(mode, offload=False):
    """Gradients, and how often attention and the products of the layers were computed."""
    torch.manual_seed(0)
    model = tiny_model("llama").train()
    checkpoint_activations(model, mode)
    network = CausalLoss(model, torch.float32, offload=offload)
    ids = tokens(1, 24)
    with Counting() as counting:
        network({"input_ids": ids, "labels": ids}).backward()
    calls = counting.calls
    attention = calls.get("aten::_scaled_dot_product_flash_attention_for_cpu", 0)
    return [p.grad for p in model.parameters()], attention, calls["aten::silu"]


def test_modes_have_equal_gradients_and_compute_what_they_say():
    layers = tiny_model("llama").config.num_hidden_layers
    expected, attention, others = gradients("none")
    assert (attention, others) == (layers, layers)
    for mode, counts in (("full", (2, 2)), ("selective", (1, 2))):
        found, attention, others = gradients(mode)
        assert (attention, others) == (counts[0] * layers, counts[1] * layers), mode
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_offloading_changes_nothing_but_where_inputs_wait(mode, monkeypatch):
    expected, *_ = gradients(mode)
    waiting = []
    copied = torch.autograd.graph.save_on_cpu

    def noting(pin_memory):
        waiting.append(pin_memory)
        return copied(pin_memory)

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", noting)
    found, *_ = gradients(mode, offload=True)
    assert waiting == [False]  # pinned on a GPU only
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
