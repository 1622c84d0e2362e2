"""The tiny models are the package's own: `ctxbench validate` uses them too."""

from ctxbench.validate.tiny import ARCHITECTURES, tiny_config, tiny_model, tokens

__all__ = ["ARCHITECTURES", "tiny_config", "tiny_model", "tokens"]
