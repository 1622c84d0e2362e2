"""Random weights with an induction circuit written in, for training a tiny model from nothing.

From plain random weights a model of this size forms an induction head within a few million tokens
or does not: it is a lottery (one seed in six did). So layer 0, head 0 begins as a
previous-token head, made of rotary phases; layer 1, head 0 begins as the head that looks for the
token after an earlier occurrence of the present one, by key composition, and copies it. Everything
else is random and all of it is trained. Idea of beginning near a known circuit: Trockman and Kolter
2023, "Mimetic Initialization", https://arxiv.org/abs/2305.09828.
"""

import math

import torch

_PREVIOUS_SHARPNESS = 4.0
_MATCH_SHARPNESS = 3.0
_WRITE = 3.0
_QUIET = 0.1
"""Scale of what is not part of the circuit."""


@torch.no_grad()
def induction_start(model, generator: torch.Generator) -> None:
    """Write random weights with an induction circuit into a Llama model, in place.

    Args:
        model: LlamaForCausalLM with at least two layers, as many key as query heads, and rotary
            embedding without scaling.
        generator: of the random part.

    Raises:
        ValueError: another kind of model.
    """
    config = model.config
    if (
        config.model_type != "llama"
        or config.num_hidden_layers < 2
        or config.num_key_value_heads != config.num_attention_heads
    ):
        raise ValueError(
            f"init=induction is for Llama models of two layers or more with as many key as query "
            f"heads, not for this {config.model_type}. Use init=random or init=pretrained."
        )
    _random_weights(model, generator)
    dim, head_dim = config.hidden_size, config.head_dim
    half, rank = head_dim // 2, min(head_dim, (dim - 2) // 2)
    frequency = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)

    # Dimension 0 of every embedding is a constant, which positions alone are compared through.
    std = config.initializer_range
    model.model.embed_tokens.weight[:, 0] = 3 * std
    constant = 3 * std / math.sqrt(std**2 * (dim - 1) / dim + (3 * std) ** 2 / dim)
    basis = _orthonormal_rows(2 * rank, dim - 1, generator)
    empty = torch.zeros(rank, 1)
    token, previous = torch.cat([empty, basis[:rank]], 1), torch.cat([empty, basis[rank:]], 1)

    first = model.model.layers[0].self_attn
    query = 0.02 * torch.randn(head_dim, dim, generator=generator)
    key = 0.02 * torch.randn(head_dim, dim, generator=generator)
    turning = (frequency > 0.12).nonzero().flatten()
    sharpness = _PREVIOUS_SHARPNESS * math.sqrt(10 / len(turning)) * (head_dim / 64) ** 0.25
    query[turning, 0] = sharpness * torch.cos(frequency[turning]) / constant
    query[turning + half, 0] = -sharpness * torch.sin(frequency[turning]) / constant
    key[turning, 0] = sharpness / constant
    first.q_proj.weight[:head_dim], first.k_proj.weight[:head_dim] = query, key
    first.v_proj.weight[:rank] = token
    first.o_proj.weight[:, :rank] = std * _WRITE * previous.T

    # Slow pairs hardly turn within the window: there content is compared, not position.
    second = model.model.layers[1].self_attn
    slow = (frequency * config.max_position_embeddings < 1.6 * math.pi).nonzero().flatten()
    slow = torch.cat([slow, slow + half])
    match = torch.zeros(head_dim, rank)
    rows = _orthonormal_rows(min(len(slow), rank), rank, generator)
    scale = _MATCH_SHARPNESS * math.sqrt(28 / len(rows)) * (head_dim / 64) ** 0.25
    match[slow[: len(rows)]] = scale * rows
    copied = torch.cat([empty, _orthonormal_rows(rank, dim - 1, generator)], 1)
    second.q_proj.weight[:head_dim] = 1.4 * match @ token
    second.k_proj.weight[:head_dim] = 1.4 * match @ previous
    second.v_proj.weight[:rank] = copied
    second.o_proj.weight[:, :rank] = std * 3 * copied.T

    for number, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.weight.mul_(_QUIET)
        layer.self_attn.o_proj.weight[:, head_dim if number < 2 else 0 :].mul_(_QUIET)


def _random_weights(model, generator: torch.Generator) -> None:
    """Fan-in scaled normal weights, halved where a layer writes to the residual stream."""
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            weight.fill_(1.0)
        elif "embed" in name or "lm_head" in name:
            weight.normal_(0, model.config.initializer_range, generator=generator)
        else:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            weight.normal_(0, weight.shape[1] ** -0.5 / (2 if writes else 1), generator=generator)


def _orthonormal_rows(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T
