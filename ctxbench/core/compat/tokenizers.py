"""What is used of tokenizers beyond what it promises."""

from __future__ import annotations

import json
from typing import Any

from ctxbench.core.compat.foreign import Foreign, Library

TOKENIZERS = Library("tokenizers", "0.22 to 0.23", "tokenizers>=0.22,<0.24")

_WHY = "read the rules of a tokenizer without its vocabulary"
_NORMALIZER = Foreign(TOKENIZERS, "tokenizers.normalizers", "Normalizer.__getstate__", _WHY)
_PRE_TOKENIZER = Foreign(TOKENIZERS, "tokenizers.pre_tokenizers", "PreTokenizer.__getstate__", _WHY)
ENTRIES = (_NORMALIZER, _PRE_TOKENIZER)


def rules_of(component: Any) -> dict[str, Any]:
    """Return the rules of a normalizer or pre-tokenizer as tokenizer.json has them."""
    return json.loads(_NORMALIZER.of(component)())
