"""A config under the names that transformers 4, and what grew around it, reads.

transformers 5 keeps everything of the rotation in `rope_parameters`; what came before reads
`rope_theta`, `rope_scaling`, `partial_rotary_factor` and a few names of single models, and takes
its defaults, silently, where they are missing.
"""

from typing import Any

_BASE = {"gpt_neox": "rotary_emb_base"}
_SHARE = {"gpt_neox": "rotary_pct"}
"""By model type, where the older name is another one."""


def add_older_names(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a config.json with the older names beside `rope_parameters`."""
    rope = saved.get("rope_parameters") or {}
    if "full_attention" in rope:  # Gemma 3: a setting for each kind of layer
        local = rope.get("sliding_attention") or {}
        more = {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        return {**saved, **_of(rope["full_attention"], saved), **more}
    return {**saved, **_of(rope, saved)}


def _of(rope: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    if "rope_theta" not in rope:
        return {}
    kind, share = saved.get("model_type", ""), rope.get("partial_rotary_factor")
    scaled = rope.get("rope_type", "default") != "default"
    found = {"rope_theta": rope["rope_theta"], "rope_scaling": rope if scaled else None}
    if kind in _BASE:
        found[_BASE[kind]] = rope["rope_theta"]
    if share is not None:
        found["partial_rotary_factor"] = share
        if kind in _SHARE:
            found[_SHARE[kind]] = share
    return found
