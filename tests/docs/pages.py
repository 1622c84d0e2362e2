"""Our pages: their commands, Python examples and links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {ROOT / "docs" / "methods.md"}
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / folder / "README.md" for folder in ("train", "results", "benchmarks", "examples")),
        *(ROOT / "results").glob("*/README.md"),
        *(ROOT / "examples").glob("*/README.md"),
        *(ROOT / "ctxbench" / "tasks").glob("*/README.md"),
    }
)
PAGES = [page for page in PAGES if page.is_file()]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
_PROGRAMS = ("lm_eval", "ctxbench", "ctxbench-train", "python", "torchrun", "accelerate")


def name(page: Path) -> str:
    """Return a page's name for a test."""
    return str(page.relative_to(ROOT))


def fences(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of some languages."""
    return [text for kind, text in _FENCE.findall(page.read_text()) if kind in languages]


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page as words: of shell blocks, and of others that hold some."""
    found = []
    for text in fences(page, "bash", "console", ""):
        for line in text.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if text in fences(page, "") and line.partition(" ")[0] not in _PROGRAMS:
                continue
            for part in re.split(r"\s&&\s", line):
                words = shlex.split(part, comments=True)
                found += [words] if words else []
    return found


def inline(page: Path) -> list[str]:
    """Return what stands between single backticks, outside code blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    """Return the targets of links and pictures, outside code."""
    text = _FENCE.sub("", page.read_text())
    text = re.sub(r"`[^`\n]*`", "", text)
    return [one or other for one, other in _LINK.findall(text)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
