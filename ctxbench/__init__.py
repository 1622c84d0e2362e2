"""ctxbench: controlled comparison of long-context extension methods.

Importing this package does nothing but make the names below available, lazily.
"""

__version__ = "0.1.0"
