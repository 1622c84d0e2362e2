"""The chunked loss equals the plain one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctxbench.train import loss as loss_module
from ctxbench.train.loss import CausalLoss, chunked_linear_cross_entropy
from ctxbench.validate.tiny import tiny_model, tokens


def case(dtype=torch.float32, bias=False):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 16, generator=generator).requires_grad_()
    head = nn.Linear(16, 50, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    labels = torch.randint(0, 50, (37,), generator=generator)
    weights = torch.rand(37, generator=generator)
    return hidden, head, labels, weights


def plain(hidden, head, labels, weights):
    return (F.cross_entropy(head(hidden), labels, reduction="none") * weights).sum()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_value_and_gradients(monkeypatch, rows, bias):
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", rows * 50)
    hidden, head, labels, weights = case(bias=bias)
    wanted = plain(hidden, head, labels, weights)
    inputs = [hidden, *head.parameters()]
    gradients = torch.autograd.grad(3 * wanted, inputs)
    found = chunked_linear_cross_entropy(hidden, head, labels, weights, torch.float32)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)  # float32, other order of sums
    for ours, theirs in zip(torch.autograd.grad(3 * found, inputs), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_the_loss_in_float32():
    hidden, head, labels, weights = case()
    wanted = plain(hidden, head, labels, weights)
    found = chunked_linear_cross_entropy(hidden, head, labels, weights, torch.bfloat16)
    assert found.dtype == torch.float32
    # logits have 8 bits, errors of either sign; a bfloat16 sum would be off by up to 0.4 %
    assert found.item() == pytest.approx(wanted.item(), rel=2e-3)


def test_frozen_head_gets_no_gradient():
    hidden, head, labels, weights = case()
    head.requires_grad_(False)
    chunked_linear_cross_entropy(hidden, head, labels, weights, torch.float32).backward()
    assert hidden.grad is not None
    assert head.weight.grad is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi", "gpt_neox"])
def test_causal_loss_is_the_models_own(architecture):
    model = tiny_model(architecture)
    ids = tokens(2, 12)
    labels = ids.clone()
    labels[0, :5] = -100
    wanted = model(ids, labels=labels).loss
    count = (labels[:, 1:] != -100).sum()
    found = CausalLoss(model, torch.float32)({"input_ids": ids, "labels": labels}) / count
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_loss_weights_count():
    network = CausalLoss(tiny_model(), torch.float32)
    ids = tokens(1, 6)
    weights = torch.tensor([[9.0, 0, 0, 2, 0, 0]])  # the first token is not predicted
    labels = torch.full_like(ids, -100)
    labels[0, 3] = ids[0, 3]
    one = network({"input_ids": ids, "labels": labels})
    found = network({"input_ids": ids, "labels": ids, "loss_weights": weights})
    assert found.item() == pytest.approx(2 * one.item())


def test_models_that_change_their_logits_are_refused():
    model = tiny_model()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match=r"final_logit_softcapping=30\.0"):
        CausalLoss(model, torch.float32)
