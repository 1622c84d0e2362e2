"""HFLM on an extended model: the weights are made under the method's config and checked."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from ctxbench import __version__
from ctxbench.core.assets import resolve_model
from ctxbench.core.compat.lm_eval import check_hooks
from ctxbench.core.own_window import OwnWindow, own_window
from ctxbench.core.refused import readable_config
from ctxbench.methods.adapters import load_adapters
from ctxbench.methods.attach import method_of
from ctxbench.methods.extension import extension_of, find_extension
from ctxbench.methods.proof import Switch, check_switch
from ctxbench.methods.record import read_record
from ctxbench.models.arguments import (
    check_followed,
    check_in_memory,
    split_arguments,
    window_asked,
)
from ctxbench.models.checkpoint_errors import explained
from ctxbench.models.checks import check_bos, check_in_place, check_tokenizer
from ctxbench.models.choosing import check_attention, choose_method, warn_untrained
from ctxbench.models.loading import check_dtype, edited_config, extend, finish_loading, load_config
from ctxbench.models.own_windows import remove_windows
from ctxbench.models.processes import check_processes, join_processes
from ctxbench.models.text_only import forget_names, text_only
from ctxbench.models.weights import check_weights

_CAUSAL = "ctxext runs causal language models, but {}. Use --model hf for it."

_HFLM: Any = HFLM  # its registering decorator hides its type from checkers


class ExtendedHFLM(_HFLM):
    """HFLM whose model runs with an extension method; it answers as HFLM does.

    Arguments as of `ctxbench.models.ctxext.CtxExt`.

    Attributes:
        ctx_method: the resolved method.
    """

    def __init__(
        self,
        pretrained: Any,
        method: str | None = None,
        length: int | str | None = None,
        *,
        max_length: int | str | None = None,
        device: str | None = None,
        dtype: str | torch.dtype = "auto",
        **kwargs: Any,
    ):
        check_hooks()
        name = None if method is None or method == "None" else str(method)
        asked, others = split_arguments(pretrained, name, kwargs)
        if (window := window_asked(length, max_length)) is not None:
            asked["length"] = window
        self._asked = (name, asked)
        self.proof: Switch = check_switch(others.pop("proof", "on"))
        self.sliding_window = others.pop("sliding_window", None)
        self.ctx_method: Any = None
        self._keys: dict[str, Any] = {}
        self.removed_window: OwnWindow | None = None
        if others.get("backend") == "seq2seq":
            raise ValueError(_CAUSAL.format("backend='seq2seq' was given"))
        in_memory = not isinstance(pretrained, str)
        check_followed(others, in_memory=in_memory)
        if in_memory:
            check_in_memory(pretrained, device, dtype)
            self._take_model(pretrained, name, asked)
        else:
            pretrained = resolve_model(pretrained)
            if isinstance(others.get("tokenizer"), str):
                others["tokenizer"] = resolve_model(others["tokenizer"])
        join_processes(device)
        super().__init__(
            pretrained=pretrained,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=check_dtype(dtype),
            **others,
        )
        check_in_place(self.hf_model)
        if hasattr(self, "accelerator"):  # HFLM splits work on several GPUs of one node only
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes
        if not (in_memory or others.get("tp_plan")):
            check_processes(self._world_size)
        check_tokenizer(self.hf_model, self.tokenizer)
        check_bos(
            self.hf_model.config, self.tokenizer, self.tok_encode("A text."), self.add_bos_token
        )

    def _take_model(self, model: Any, name: str | None, asked: dict[str, Any]) -> None:
        """Use a model in memory, extending it if it is not yet and that was asked."""
        if find_extension(model) is None:
            if self.sliding_window is not None:
                raise ValueError(
                    "sliding_window=none says how a checkpoint is loaded, but pretrained is a "
                    "model in memory. Leave it out, or give the checkpoint's folder."
                )
            extend(model, name, proof=self.proof, **asked)
        elif name is not None or asked:
            raise ValueError(
                "This model was extended already, so method and options cannot be given again. "
                "Leave them out, or give a model that was not extended."
            )
        self.ctx_method = method_of(model)

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        """Load the config and let the method edit it, before HFLM makes the model."""
        revision = kwargs.get("revision")
        config = load_config(
            pretrained,
            revision=None if revision == "main" else revision,
            trust_remote_code=bool(kwargs.get("trust_remote_code")),
        )
        if config.is_encoder_decoder:
            raise ValueError(_CAUSAL.format(f"{pretrained} is an encoder with a decoder"))
        config, self._keys = text_only(config, pretrained)
        name, asked = self._asked
        own = own_window(config.get_text_config())
        remove_windows(config, self.sliding_window)
        self.removed_window = own if self.sliding_window is not None else None
        self.ctx_method, record = choose_method(config, name, **asked)
        if self.ctx_method.needs_training and not record.trained_length:
            warn_untrained(self.ctx_method.name)
        self._config = edited_config(config, self.ctx_method, record)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        source = tokenizer or pretrained
        with explained(str(source), "tokenizer files"):
            if isinstance(source, str) and (config := readable_config(source)) is not None:
                stated = ("revision", "trust_remote_code", "add_bos_token")
                more = {name: kwargs[name] for name in stated if kwargs.get(name) is not None}
                more["use_fast"] = kwargs["use_fast_tokenizer"]
                tokenizer = AutoTokenizer.from_pretrained(source, config=config, **more)
            super()._create_tokenizer(pretrained, tokenizer, **kwargs)
        self.ctx_method.edit_tokenizer(self.tokenizer)

    def _create_model(self, pretrained: str, **kwargs: Any) -> None:
        """Load the weights under the edited config and install the method."""
        check_attention(self.ctx_method, kwargs.get("attn_implementation"))
        peft = kwargs.pop("peft", None)
        if not (kwargs.get("autogptq") or kwargs.get("gptqmodel")):
            kwargs["output_loading_info"] = True
        kwargs |= self._keys
        with explained(pretrained):
            super()._create_model(pretrained, config=self._config, **kwargs)
        if isinstance(self._model, tuple):
            self._model, loaded = self._model
            check_weights(self._model, loaded, pretrained)
        if self._keys:
            forget_names(self._model)
        finish_loading(self._model, self.ctx_method, pretrained, self.proof)  # type: ignore[arg-type]
        if peft:
            rows = self._model.get_input_embeddings().weight.shape[0]
            if rows < len(self.tokenizer):  # an adapter added tokens; padded rows stay
                self._model.resize_token_embeddings(len(self.tokenizer))
            revision = kwargs.get("revision")
            self._model = load_adapters(self._model, peft, revision)  # type: ignore[arg-type]

    @property
    def hf_model(self):
        """The transformers model, out of any adapter."""
        model = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def max_length(self) -> int:
        """The window, tokens."""
        return int(self.ctx_method.length)

    def attached(self) -> dict[str, Any]:
        """Return what was proven, which layers the method changes, and windows of the model."""
        proof, config = extension_of(self.hf_model).proof, self.hf_model.config.get_text_config()
        found: dict[str, Any] = {"proof": proof.state}
        if proof.layers is not None:
            every = len(proof.layers) == config.num_hidden_layers
            found["layers"] = "all" if every else list(proof.layers)
        if (window := own_window(config)) is not None:
            found["sliding_window"] = str(window)
        if self.removed_window is not None:
            found["sliding_window_removed"] = str(self.removed_window)
        return found

    def identity(self) -> dict[str, Any]:
        """Return the method with its options, as results and cache keys carry it."""
        record = read_record(self.hf_model.config)
        found = {
            "method": self.ctx_method.name,
            "length": self.max_length,
            "options": {k: v for k, v in self.ctx_method.options().items() if v is not None},
            "exact": self.ctx_method.exact,
            "version": __version__,
        }
        if record is not None:
            found["original_length"] = record.original_length
            found["trained_length"] = record.trained_length
            found["adopted"] = record.adopted
            found["overridden"] = record.overridden
        return found
