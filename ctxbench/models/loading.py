"""Checkpoint <-> model with its method: `extend`, `load_model`, `save_model`."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ctxbench.core.assets import resolve_model
from ctxbench.core.errors import shown
from ctxbench.core.refused import is_refused, readable_config, restore
from ctxbench.core.tensor_files import as_system_errors, save_tensors
from ctxbench.methods.adapters import without_adapters
from ctxbench.methods.attach import attach, method_of
from ctxbench.methods.base import Method
from ctxbench.methods.proof import Switch, check_switch
from ctxbench.methods.record import KEY, Record, read_record, write_record
from ctxbench.methods.registry import MethodLike, check_findable
from ctxbench.models.checkpoint_errors import explained
from ctxbench.models.checks import check_scaling, check_tokenizer
from ctxbench.models.choosing import check_attention, choose_method, warn_untrained
from ctxbench.models.own_tensors import among_weights, was_saved_with
from ctxbench.models.own_windows import remove_windows, warn_windows
from ctxbench.models.text_only import check_text_model, forget_names, text_only
from ctxbench.models.weights import check_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

STATE_FILE = "ctxbench_state.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Of which one is enough to make a tokenizer."""


def edited_config(config: PreTrainedConfig, method: Method, record: Record) -> PreTrainedConfig:
    """Edit a config in place for a resolved method and write its record."""
    config.max_position_embeddings = record.original_length
    if record.rope_parameters:
        config.rope_parameters = copy.deepcopy(record.rope_parameters)
    write_record(config, record)
    if vars(config).get("head_dim", 0) is None:  # Mixtral's; transformers' YaRN multiplies it
        config.head_dim = config.hidden_size // config.num_attention_heads
    method.edit_config(config)
    check_scaling(config)
    warn_windows(config, method)
    return config


def extend(
    model: PreTrainedModel,
    method: MethodLike | None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    proof: Switch = "on",
    **options: Any,
) -> PreTrainedModel:
    """Extend a model in memory, in place.

    Args:
        model: a causal language model with rotary embeddings.
        method: name or preset, a method with its options, or a class.
        tokenizer: edited too, for a method that adds a token.
        proof: `off` attaches a method without proving that it computes what it must.
        options: the method's options, `length`, and `adopt`, `override`, `trained_length`,
            `original_length` as for `load_model`.

    Returns:
        The same model.

    Raises:
        ValueError: unknown method or option, or a model it cannot extend.
    """
    proof = check_switch(proof)
    check_text_model(model)
    chosen, record = choose_method(model.config, method, **options)
    if tokenizer is not None:
        chosen.edit_tokenizer(tokenizer)
    edited_config(model.config, chosen, record)
    attach(without_adapters(model), chosen, proof)
    return model


def load_model(
    path_or_id: str | os.PathLike,
    method: MethodLike | None = None,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    trust_remote_code: bool = False,
    sliding_window: str | None = None,
    proof: Switch = "on",
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint with its method, or extend a base model by one.

    Args:
        path_or_id: folder, hub id, or the bundled `mini`.
        method: as for `extend`; None: what the checkpoint's record says, else `none`.
        dtype: of the weights, as transformers takes it: `auto`, `bfloat16`, a torch dtype.
        device: moved there after loading.
        revision: of a hub id.
        attn_implementation: transformers' name of the attention kernel.
        device_map: as transformers takes it.
        trust_remote_code: run code from the checkpoint; off.
        sliding_window: `none`: layers that see a window of their own see the whole text.
        proof: `off` attaches a method without proving that it computes what it must.
        options: `length` (tokens, or `32k`), the method's options, and:
            adopt: state the method of a checkpoint without a record (with `trained_length`, and
            `original_length` where its config does not say it);
            override: replace recorded options, or a scaling the config has already;
            layers: `full`: layers with a sliding window keep the angles they were trained with;
            training: complete the options as the method is trained.

    Returns:
        The model in evaluation mode and its tokenizer.

    Raises:
        ValueError: what was asked contradicts the checkpoint or itself.
        FileNotFoundError: a folder is named that does not exist or lacks a file.
    """
    from transformers import AutoModelForCausalLM

    path = resolve_model(str(path_or_id))
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    config, keys = text_only(config, path)
    proof = check_switch(proof)
    remove_windows(config, sliding_window)
    chosen, record = choose_method(config, method, **options)
    check_attention(chosen, attn_implementation)
    if chosen.needs_training and not (record.trained_length or options.get("training")):
        warn_untrained(chosen.name)
    edited_config(config, chosen, record)
    kwargs = {
        "attn_implementation": attn_implementation,
        "device_map": device_map,
        "revision": revision,
    }
    with explained(path):
        # with the argument it returns two
        model, loaded = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            path,
            output_loading_info=True,
            config=config,
            dtype=check_dtype(dtype),
            trust_remote_code=trust_remote_code,
            **keys,
            **{name: value for name, value in kwargs.items() if value is not None},
        )
    check_weights(model, loaded, path)
    if keys:
        forget_names(model)
    tokenizer = load_tokenizer(
        path, config=config, revision=revision, trust_remote_code=trust_remote_code
    )
    chosen.edit_tokenizer(tokenizer)
    finish_loading(model, chosen, path, proof)
    check_tokenizer(model, tokenizer)
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    return model.eval(), tokenizer


def finish_loading(model: PreTrainedModel, method: Method, path: str, proof: Switch = "on") -> None:
    """Install the method in a model loaded from `path` and load the method's own tensors."""
    import torch

    attach(model, method, proof)
    tensors = method.state_tensors(model)
    file = Path(path) / STATE_FILE
    if not file.exists():
        if not tensors:
            return
        with explained(path, "method's own tensors"):
            saved = among_weights(path, model, tensors)
        trained = read_record(model.config).trained_length  # type: ignore[union-attr]
        if set(saved) != set(tensors):
            if not (saved or trained or was_saved_with(path, method)):
                return  # the model's first extension
            raise FileNotFoundError(
                f"{path} was trained with method={method.name} but lacks {STATE_FILE}, which holds "
                f"{', '.join(tensors)}. Copy the file from where the checkpoint was made."
            )
    else:
        from safetensors.torch import load_file

        with explained(path, "method's own tensors"):
            saved = load_file(file)
    if set(saved) != set(tensors):
        raise ValueError(
            f"{file} holds {sorted(saved)} but method={method.name} has {sorted(tensors)}. "
            "Load it with the method and options it was made with."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    path: str | os.PathLike,
    *,
    trained_length: int | None = None,
) -> Path:
    """Save an extended model so that `load_model(path)` gives the same logits.

    A checkpoint that plain transformers would compute wrongly gets a `rope_type` that it refuses,
    with a name that says what to use.

    Args:
        model: extended by `extend` or `load_model`.
        tokenizer: saved beside it.
        path: a folder, made if needed.
        trained_length: tokens; put into the record when training made this checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: the model has no method, or one of a class that could not be found again.
    """
    method = method_of(model)
    check_findable(type(method))
    record = read_record(model.config)
    assert record is not None
    if trained_length is not None:
        record = replace(record, trained_length=trained_length)
        write_record(model.config, record)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    own = {name: t.detach().cpu().contiguous() for name, t in method.state_tensors(model).items()}
    with as_system_errors(folder):
        model.save_pretrained(folder, state_dict=_weights_without(model, own))
    if own:
        save_tensors(own, folder / STATE_FILE)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def load_config(
    path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Load a config, restoring one that was saved to be refused by plain transformers.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        ValueError: config.json is damaged.
    """
    from transformers import AutoConfig, PreTrainedConfig

    _check_folder(path)
    _check_generation_config(Path(path).expanduser() / "generation_config.json")
    kwargs: dict[str, Any] = {"revision": revision} if revision is not None else {}
    try:
        raw, _ = PreTrainedConfig.get_config_dict(path, **kwargs)
        record = read_record(SimpleNamespace(**{KEY: raw.get(KEY)}))  # type: ignore[arg-type]
        if record is None or not is_refused(raw):
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **kwargs)
        else:
            config = restore(raw, record.rope_parameters)
        _check_sizes(config.get_text_config())
        return config  # type: ignore[return-value]
    except OSError as error:
        raise FileNotFoundError(
            f"{path} is neither a checkpoint folder here nor to be had from the hub: "
            f"{str(error).splitlines()[0]} Give an existing folder, a hub id, or 'mini'."
        ) from error
    except Exception as error:  # whatever a stranger's file makes readers do
        if isinstance(error, ValueError) and "ctxbench record" in str(error):
            raise
        raise ValueError(
            f"The config of {path} cannot be read: {error}. It must be a transformers "
            "config.json of a causal language model; restore it from where it came."
        ) from error


_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "max_position_embeddings", "head_dim"),
)


def _check_sizes(config: Any) -> None:
    """Check the fields of a config that everything is computed from.

    Raises:
        ValueError: one is no positive number.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    found = {name: getattr(config, name, None) for name in _SIZES}
    if isinstance(rope, dict):
        found["rope_theta"] = rope.get("rope_theta")
    for name, value in found.items():
        if isinstance(value, str | bool) or (isinstance(value, int | float) and value <= 0):
            raise ValueError(f"{name} is {shown(value)} and must be a positive number")


def load_tokenizer(path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer.

    Raises:
        ValueError: its files are damaged.
        FileNotFoundError: it has none.
    """
    from transformers import AutoTokenizer

    folder = Path(path).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{path} has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is there. Copy the "
            "tokenizer's files of the base model into the folder."
        )
    given = {name: value for name, value in kwargs.items() if value is not None}
    if "config" not in given:
        given["config"] = readable_config(path, revision=kwargs.get("revision"))
    with explained(path, "tokenizer files"):
        return AutoTokenizer.from_pretrained(path, **given)


def check_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """Return a dtype that transformers understands.

    Raises:
        ValueError: it is none.
    """
    import torch

    if isinstance(dtype, str) and dtype != "auto":
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:  # type: ignore[union-attr]
            raise ValueError(
                f"dtype={dtype!r} is not a floating-point dtype. Allowed: auto, float32, bfloat16, "
                "float16, float64. Give one of these."
            )
        return found
    return dtype


# -------------------------------------------------------------------- saving


def _weights_without(model: PreTrainedModel, own: dict[str, torch.Tensor]) -> dict:
    """Return the state dict without the method's own tensors."""
    pointers = {t.data_ptr() for t in method_of(model).state_tensors(model).values()}
    weights = model.state_dict()
    return {k: v for k, v in weights.items() if not own or v.data_ptr() not in pointers}


def _check_generation_config(file: Path) -> None:
    """Check that what a checkpoint says about ending answers can be read: it would be lost."""
    if not file.is_file():
        return
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        content = error
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} is damaged or no mapping ({shown(content)}). It says which tokens end an "
            "answer. Copy it again from where the checkpoint came, or remove it."
        )


def _check_folder(path: str) -> None:
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{path} has no config.json, so it is not a checkpoint. Give the folder that "
                "save_pretrained or ctxbench-train wrote."
            )
    elif looks_local and path.count("/") != 0:
        raise FileNotFoundError(
            f"There is no folder {path}. Give an existing checkpoint folder, a hub id such as "
            "meta-llama/Llama-2-7b-hf, or the bundled 'mini'."
        )
