"""The line in which every benchmark says what it found, and which `table.py` collects."""

from __future__ import annotations

import json
from pathlib import Path

MARK = "claim: "


def claim(
    what: str,
    value: float,
    peer: str = "",
    *,
    unit: str = "x",
    at_most: float | None = None,
    at_least: float | None = None,
) -> None:
    """Print one claim.

    Args:
        what: was measured, of ctxbench.
        value: ours divided by the peer's; with a unit of its own where there is no peer.
        peer: what ran beside it.
        unit: of the value; `x` for a ratio.
        at_most: the aim.
        at_least: the aim.
    """
    found = {"what": what, "peer": peer, "value": float(f"{value:.3g}"), "unit": unit}
    if at_most is not None:
        found |= {"aim": f"at most {at_most:g}", "met": value <= at_most}
    if at_least is not None:
        found |= {"aim": f"at least {at_least:g}", "met": value >= at_least}
    print(MARK + json.dumps(found), flush=True)


def save_numbered_words(folder: Path, vocabulary: int) -> None:
    """Save a tokenizer of the words w0, w1, ... into a checkpoint whose data are ids already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
