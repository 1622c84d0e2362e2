"""Sphinx settings: Markdown by MyST, the API from docstrings, warnings are errors (`-W`)."""

import ctxbench

project = "ctxbench"
author = copyright = "The ctxbench authors"
release = version = ctxbench.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "ctxbench"
nitpicky = False
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["myst.xref_missing"]  # links into the repository; tests/docs checks them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"  # single backticks in docstrings are code
