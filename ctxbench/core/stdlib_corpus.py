"""The Python standard library as a corpus: text that every user has, of the user's own Python.

About 10 million characters; one file in twelve, chosen by the hash of its name, is held out: the
bundled mini model was not trained on it and the mini tasks are built from it.
"""

import hashlib
import os
import sysconfig
from functools import lru_cache
from pathlib import Path

_SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "__pycache__",
    "test",
    "tests",
    "idle_test",  # tests are repetitive
    "encodings",  # tables
    "lib2to3",  # not in every version
}
_MIN_CHARACTERS = 2000

NOUNS = tuple(
    """
    apple river falcon copper window garden silver tiger candle bridge forest rocket violin marble
    pepper ocean castle dragon lemon mirror saddle temple walnut yellow zebra anchor basket cactus
    desert engine feather guitar hammer island jacket kettle ladder magnet needle orange parrot
    quartz rabbit shadow thunder umbrella valley whale pirate tunnel planet pencil monkey market
    lantern knight jungle honey harbor gravel ginger galaxy flower finger eagle donkey diamond
    crystal cotton coffee circle cherry carpet camel button bullet bottle blanket beaver banana
    bamboo autumn arrow almond acorn winter wagon velvet turtle tulip tomato ticket sunset sugar
    statue spider soldier snow shell scarf salmon rubber ribbon raven prince potato poet pillow
    piano penguin peach paper panda palace owl otter orchid onion olive nest music mountain moon
    minute milk melon meadow maple lizard lion linen lily letter leaf lamp lake kitten king iron ice
    """.split()  # noqa: SIM905  (a word list reads better as words)
)
"""Keys of the retrieval lines; each is one token of the mini tokenizer after a space."""


@lru_cache(maxsize=1)
def stdlib_files() -> tuple[tuple[str, str], ...]:
    """Return (name relative to the standard library, text), sorted by walking order.

    Files shorter than 2000 characters and unreadable ones are left out; tabs become four spaces.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(folder) / name
            if not name.endswith(".py") or "pydecimal" in name:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if len(text) > _MIN_CHARACTERS:
                found.append((path.relative_to(root).as_posix(), text.replace("\t", "    ")))
    return tuple(found)


def is_held_out(name: str) -> bool:
    """Return whether a file belongs to the held-out twelfth."""
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % 12 == 0


def held_out_files() -> list[tuple[str, str]]:
    """Return the held-out files, sorted by name."""
    return sorted(file for file in stdlib_files() if is_held_out(file[0]))
