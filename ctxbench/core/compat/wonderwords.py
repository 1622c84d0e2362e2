"""The word lists inside the wonderwords package."""

from ctxbench.core.compat.foreign import Library
from ctxbench.core.compat.package_text import PackageText

WONDERWORDS = Library("wonderwords", "3.0", "wonderwords>=3.0.1,<3.1")
LISTS = {
    name: PackageText(
        WONDERWORDS, "wonderwords", f"assets/{name}list.txt", "draw the words of RULER"
    )
    for name in ("noun", "adjective", "verb")
}
ENTRIES = tuple(LISTS.values())
