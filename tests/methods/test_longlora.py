"""LongLoRA: groups in training only."""

import copy

import pytest
import torch

from ctxbench.methods.longlora import LongLoRA, grouped_attention
from ctxbench.models.choosing import warn_untrained
from ctxbench.models.loading import extend, load_model
from tests.methods.tiny import ARCHITECTURES, tiny_config, tiny_model, tokens


def training_model(architecture="llama", **options):
    model = extend(tiny_model(architecture).double(), "longlora", length=256, **options)
    return model.train()


@torch.no_grad()
def logits(model, ids, **kwargs):
    return model(ids, **kwargs).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outside_training_it_is_position_interpolation(architecture):
    plain = tiny_model(architecture)
    ids = tokens(2, 70)
    ours = extend(copy.deepcopy(plain), "longlora", length=256)
    assert logits(ours, ids).equal(logits(extend(plain, "pi", length=256), ids))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_logit_sees_the_future_in_training(architecture):
    model = training_model(architecture)
    ids = tokens(1, 64)
    for at in (1, 16, 40, 63):
        changed = ids.clone()
        changed[0, at] = (changed[0, at] + 1) % 100
        before, after = logits(model, ids), logits(model, changed)
        assert before[:, :at].equal(after[:, :at])
        assert not before[:, at:].allclose(after[:, at:])


@pytest.mark.parametrize("group", [4, 5, 12])
def test_groups_equal_a_mask(group):
    query, key, value = torch.randn(3, 2, 4, 60, 8, generator=torch.Generator().manual_seed(0))
    at = torch.arange(60)
    causal = at[:, None] >= at
    plain = causal & (at[:, None] // group == at // group)
    moved = (at - group // 2) // group
    shifted = causal & (moved[:, None] == moved)
    mask = torch.stack((plain, plain, shifted, shifted))
    scores = (query @ key.transpose(-1, -2) * 0.5).masked_fill(~mask, -torch.inf)
    found = grouped_attention(query, key, value, group, 0.5)
    torch.testing.assert_close(found, scores.softmax(-1) @ value, rtol=0, atol=1e-5)


def test_padded_rows_train_as_single_rows():
    model = training_model()
    ids = tokens(2, 64)
    mask = torch.ones_like(ids)
    mask[1, 50:] = 0
    together = logits(model, ids, attention_mask=mask)
    torch.testing.assert_close(together[0], logits(model, ids[:1])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1, :50], logits(model, ids[1:])[0, :50], rtol=0, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    ids = tokens(2, 64)

    def gradients(model):
        model(ids, labels=ids, use_cache=False).loss.backward()
        return [p.grad for p in model.parameters()]

    plain, checkpointed = training_model(), training_model()
    what = "activation" if hasattr(plain, "activation_checkpointing_enable") else "gradient"
    getattr(checkpointed, f"{what}_checkpointing_enable")()
    for one, two in zip(gradients(plain), gradients(checkpointed), strict=True):
        assert one.equal(two)


def test_what_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="has length 66"):
        training_model()(tokens(1, 66))
    with pytest.raises(ValueError, match="0 < ratio"):
        LongLoRA(ratio=0.7, factor=1).resolve(tiny_config())


def test_release_restores_the_attention_that_was_there():
    model = tiny_model(attn_implementation="eager")
    extend(model, "longlora", length=256)
    assert model.config._attn_implementation == "ctxbench_longlora"
    extend(model, "none", override=True)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["longlora", "self_extend"])
def test_a_kernel_beside_a_method_that_attends_itself_is_refused(name):
    with pytest.raises(ValueError, match="attn_implementation=eager would be ignored"):
        load_model("mini", name, length=1024, attn_implementation="eager")


def test_a_model_not_trained_with_it_is_named_once(caplog):
    warn_untrained.cache_clear()
    for _ in range(2):
        load_model("mini", "longlora", length=1024)
    assert sum("not trained with it" in line for line in caplog.messages) == 1
