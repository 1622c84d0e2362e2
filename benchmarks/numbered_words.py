"""A tokenizer for data that are token ids already: the checkpoint needs one of the same size."""

from __future__ import annotations

from pathlib import Path


def save_tokenizer(folder: Path, vocabulary: int) -> None:
    """Save a tokenizer of the words w0, w1, ... into a checkpoint's folder."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
