"""What decides how a model generates: one table over the fields of `GenerationConfig`.

Of a checkpoint's own settings only what ends an answer is taken: `eos_token_id` (a list in chat
models) and `stop_strings`. All others are set aside and named in the results: penalties, minimal
lengths, forced or forbidden tokens and sampling that a publisher chose for conversations would
change scores that a task measures greedily. A task, or `--gen_kwargs`, may ask for those of
`ALLOWED`; those of `REFUSED` are errors that say why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from ctxbench.core.errors import near_names, shown

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

OVERFLOW = ("error", "left", "middle", "allow")
"""What a task may ask for a prompt that does not fit, as generation argument `ctx_overflow`."""

TAKEN = ("eos_token_id", "stop_strings")
"""Fields that come from the checkpoint: what ends an answer."""

OURS = (
    "bos_token_id",
    "max_new_tokens",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "transformers_version",
    "use_cache",
    "_from_model_config",
)
"""Fields that `ctxext` sets, or that say nothing about an answer."""

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)

ALLOWED = (
    "do_sample",
    *_SAMPLING,
    "bad_words_ids",
    "begin_suppress_tokens",
    "early_stopping",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "forced_eos_token_id",
    "length_penalty",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "renormalize_logits",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
)
"""Fields that a task or `--gen_kwargs` may set."""

_DECODER = "It is of encoder-decoder models, and ctxext runs decoders"
_SPEED = "It changes how fast a token comes, not which; leave it out"
_SEARCH = "transformers took this search out of its package; use num_beams or do_sample"
_CACHE = "The method decides how keys and values are kept; leave it out"

REFUSED = {
    "max_length": "It counts the prompt too. Give max_gen_toks",
    "min_length": "It counts the prompt too. Give min_new_tokens",
    "max_time": "Answers would depend on the machine. Give max_gen_toks",
    "stop_strings": "Give until",
    "remove_invalid_values": "It would hide a model that computes NaN. Leave it out",
    "guidance_scale": "It needs a second pass over another prompt, which ctxext does not make",
    "token_healing": "It rewrites the prompt. Leave it out",
    "watermarking_config": "It changes which tokens are chosen. Leave it out",
    "prefill_chunk_size": "Give the model argument prefill_chunk",
    "use_cache": _CACHE,
    "cache_implementation": _CACHE,
    "cache_config": _CACHE,
    "max_cache_len": _CACHE,
    "encoder_repetition_penalty": _DECODER,
    "encoder_no_repeat_ngram_size": _DECODER,
    "decoder_start_token_id": _DECODER,
    "forced_bos_token_id": _DECODER,
    "constraints": _SEARCH,
    "diversity_penalty": _SEARCH,
    "dola_layers": _SEARCH,
    "force_words_ids": _SEARCH,
    "low_memory": _SEARCH,
    "num_beam_groups": _SEARCH,
    "penalty_alpha": _SEARCH,
    "assistant_confidence_threshold": _SPEED,
    "assistant_early_exit": _SPEED,
    "assistant_ensemble_weight": _SPEED,
    "assistant_lookbehind": _SPEED,
    "compile_config": _SPEED,
    "continuous_batching_config": _SPEED,
    "disable_compile": _SPEED,
    "is_assistant": _SPEED,
    "max_matching_ngram_size": _SPEED,
    "num_assistant_tokens": _SPEED,
    "num_assistant_tokens_schedule": _SPEED,
    "prompt_lookup_num_tokens": _SPEED,
    "speculation_type": _SPEED,
    "target_lookbehind": _SPEED,
    "use_mtp": _SPEED,
}
"""Fields that nobody may set, and what to do instead."""


@dataclass(frozen=True)
class CheckpointGeneration:
    """What a checkpoint says about generating.

    Attributes:
        eos_token_id: tokens that end an answer.
        stop_strings: texts that end one.
        set_aside: other fields that differ from transformers' defaults; they are not followed.
    """

    eos_token_id: tuple[int, ...]
    stop_strings: tuple[str, ...]
    set_aside: dict[str, Any]

    def ending_at(self, token: int) -> CheckpointGeneration:
        """Return the same with one more token that ends an answer."""
        return replace(self, eos_token_id=tuple(sorted({*self.eos_token_id, token})))


def read_checkpoint(model: PreTrainedModel, tokenizer: Any) -> CheckpointGeneration:
    """Return what the files of a model say about generating, and its tokenizer about ending."""
    from transformers import GenerationConfig

    given: Any = model.generation_config or GenerationConfig()
    ends = _as_list(given.eos_token_id) or _as_list(model.config.get_text_config().eos_token_id)
    ends += _as_list(getattr(tokenizer, "eos_token_id", None))
    return CheckpointGeneration(
        eos_token_id=tuple(sorted({_token(end) for end in ends})),
        stop_strings=tuple(map(str, _as_list(given.stop_strings))),
        set_aside={
            name: value
            for name, value in sorted(given.to_diff_dict().items())
            if name not in (*TAKEN, *OURS) and value is not None
        }
        | ({"use_cache": False} if given.use_cache is False else {}),
    )


def _token(end: Any) -> int:
    if not isinstance(end, int):
        raise ValueError(
            f"The checkpoint's eos_token_id {shown(end)} is no id of a token. Correct its "
            "generation_config.json or config.json."
        )
    return end


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


@dataclass(frozen=True)
class GenerationSettings:
    """What is in force for the answers to a task.

    Attributes:
        options: fields of `GenerationConfig`; those that are not here have no effect.
        until: texts that end an answer.
        overflow: of `OVERFLOW`: what is done with a prompt that does not fit.
    """

    options: dict[str, Any]
    until: list[str]
    overflow: str

    @property
    def new_tokens(self) -> int:
        """At most, those of reasoning included."""
        return self.options["max_new_tokens"]

    @property
    def sampled(self) -> bool:
        """Whether every answer is a draw."""
        return bool(self.options["do_sample"])

    def in_force(self) -> dict[str, Any]:
        """Return them as results carry them."""
        return {**self.options, "until": self.until, "ctx_overflow": self.overflow}


def settings_for(
    given: Mapping[str, Any],
    checkpoint: CheckpointGeneration,
    *,
    new_tokens: int,
    end: str,
    overflow: str,
    reasoning_tokens: int = 0,
) -> GenerationSettings:
    """Return what is in force where a task asks for something.

    Args:
        given: the task's `generation_kwargs`, those of `--gen_kwargs` merged in.
        checkpoint: what is taken from the model's files.
        new_tokens: of an answer at most, where the task does not say.
        end: text of the token that ends a text; it always stops.
        overflow: of `OVERFLOW`, where the task does not say.
        reasoning_tokens: that may come before an answer.

    Raises:
        ValueError: it asks for something that is refused, or that nobody knows.
    """
    _check_kinds(given)
    asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), new_tokens))
    until = handle_stop_sequences(asked.pop("until", None), eos=end)
    until += [text for text in checkpoint.stop_strings if text not in until]
    overflow = asked.pop("ctx_overflow", overflow)
    if overflow not in OVERFLOW:
        raise ValueError(
            f"ctx_overflow={overflow!r} is not allowed; it is one of {', '.join(OVERFLOW)}. "
            "Correct the task's generation_kwargs."
        )
    new = int(asked.pop("max_gen_toks"))
    if new < 1:
        raise ValueError(
            f"max_gen_toks={new} leaves no token for an answer. Give at least 1 in the task's "
            "generation_kwargs or --gen_kwargs."
        )
    options = {name: value for name, value in asked.items() if _allowed(name, value)}
    if not options.get("do_sample"):  # greedy unless sampling was asked for
        options = {name: value for name, value in options.items() if name not in _SAMPLING}
        options["do_sample"] = False
    options["eos_token_id"] = _as_list(options.get("eos_token_id")) or list(checkpoint.eos_token_id)
    return GenerationSettings(
        {**options, "max_new_tokens": new + reasoning_tokens}, until, overflow
    )


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "max_gen_toks": ("a whole number", lambda value: str(value).isdecimal()),
    "until": (
        "a text or a list of texts",
        lambda value: all(isinstance(each, str) for each in _as_list(value)),
    ),
    "eos_token_id": (
        "the id of a token, or a list of ids",
        lambda value: all(isinstance(each, int) for each in _as_list(value)),
    ),
    "temperature": ("a number", lambda value: isinstance(value, int | float)),
    "top_p": ("a number", lambda value: isinstance(value, int | float)),
}


def _check_kinds(given: Mapping[str, Any]) -> None:
    """Check values that would stop an answer after it was computed, or end in a traceback.

    Raises:
        ValueError: one is of another kind.
    """
    for name, (allowed, fits) in _KINDS.items():
        if given.get(name) is not None and not fits(given[name]):
            raise ValueError(
                f"The generation argument {name}={shown(given[name])} is not allowed; it must be "
                f"{allowed}. It comes from the task's generation_kwargs or from --gen_kwargs."
            )


def _allowed(name: str, value: Any) -> bool:
    """Return whether a setting has an effect; None has none.

    Raises:
        ValueError: it is refused or unknown.
    """
    if value is None or name in ALLOWED:
        return value is not None
    if name in REFUSED:
        raise ValueError(
            f"The generation argument {name}={value!r} is not followed. {REFUSED[name]}. It comes "
            "from the task's generation_kwargs or from --gen_kwargs."
        )
    known = [*ALLOWED, "until", "max_gen_toks", "ctx_overflow"]
    raise ValueError(
        f"There is no generation argument {name!r}{near_names(name, known)} ctxext follows "
        f"{', '.join(sorted(known))}. It comes from the task's generation_kwargs or from "
        "--gen_kwargs."
    )


def generation_config(options: Mapping[str, Any], **more: Any) -> GenerationConfig:
    """Return transformers' object for settings; what they do not name has no effect."""
    from transformers import GenerationConfig

    # transformers samples from the 50 best tokens unless told otherwise
    plain = {"top_k": 0} if options.get("do_sample") and "top_k" not in options else {}
    return GenerationConfig(**{**plain, **options, **more})


@dataclass
class GenerationReport:
    """What was in force in a run, as results carry it.

    Attributes:
        checkpoint: what the model's files said.
        reasoning_cut: requests whose answers are empty because the reasoning never ended.
    """

    checkpoint: CheckpointGeneration
    reasoning_cut: set[Hashable] = field(default_factory=set)
    _tasks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, settings: GenerationSettings, tasks: Iterable[str]) -> None:
        """Note what is in force for some tasks; says once what was set aside."""
        if not self._tasks and (aside := self.checkpoint.set_aside):
            log.warning(
                "The checkpoint's own generation settings are set aside, since a task decides how "
                "it is measured: %s. What you want in force, give in --gen_kwargs.",
                ", ".join(f"{name}={value!r}" for name, value in aside.items()),
            )
        self._tasks |= dict.fromkeys(tasks, settings.in_force())

    def recorded(self) -> dict[str, Any]:
        """Return task -> settings, and what was set aside."""
        if not self._tasks:
            return {}
        return {"generation": self._tasks, "generation_set_aside": self.checkpoint.set_aside}


@contextmanager
def without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Take away what a model's files say about generating, which `generate` would mix in."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
