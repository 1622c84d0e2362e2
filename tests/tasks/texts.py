"""Texts of the perplexity tests."""

import json

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from ctxbench.core.assets import resolve_model
from ctxbench.tasks.perplexity import dataset


def save_tokenizer(folder) -> str:
    """Save the bundled tokenizer, made to begin a text with BOS as Llama's does; return where."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("mini"))
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A",
        special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)],
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_jsonl(path, texts):
    """Write one record a text; return the path."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def shards(path, tokenizer_path, **kwargs):
    """Return the shards of a text."""
    options = {"ctx_source": "text", "ctx_protocol": "overlap", "ctx_length": 512}
    options |= {"tokenizer": tokenizer_path, "text_path": str(path)}
    return dataset.shards(**options | kwargs)
