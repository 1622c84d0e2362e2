"""`ctxbench data fetch`: all data that a family of tasks reads, at a fixed content."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctxbench.core.assets import data_dirs, fetched_dir, find_data
from ctxbench.core.errors import near_names
from ctxbench.tasks.digests import check_digest
from ctxbench.tasks.hub import HubFile
from ctxbench.tasks.longbench.dataset import ARCHIVE
from ctxbench.tasks.manyshot import trec
from ctxbench.tasks.perplexity.texts import SOURCES
from ctxbench.tasks.web_file import Progress, WebFile, ask, check_room, download, unpack

HUB = "https://huggingface.co"
_RULER = "NVIDIA/RULER/c3f5e3b4f87f97e048793bb510a3a6b19a46bf3a/scripts/data/synthetic/json"


@dataclass(frozen=True)
class DataSet:
    """A file with what is said before it is fetched.

    Attributes:
        about: what it is.
        licence: of it, by its authors.
        file: to fetch.
        names: under which tasks find it among local data, besides the file's own.
    """

    about: str
    licence: str
    file: WebFile | HubFile
    names: tuple[str, ...] = ()


# The official script joins essays as their sites have them today: its result differs from year to
# year. This is the one that the numbers in the tests were made with, from a copy of the repository.
ESSAYS = DataSet(
    "218 essays, RULER's haystack",
    "© Paul Graham; to read, not to distribute",
    WebFile(
        name="PaulGrahamEssays.json",
        urls=(
            "https://raw.githubusercontent.com/Rya-Sanovar/RULER/"
            "174598e1c0c3b88badb9a87fb95b16cc744612b8/scripts/data/synthetic/json/"
            "PaulGrahamEssays.json",
        ),
        sha256="1af094ff36d47893ea3c09cc570038053b711a9ba728c9d2dca036dbb231fa41",
    ),
)
_ENGLISH = {
    "abbrev_types.txt": "92a3e070f43d9b4c5534758ca40ad7343b04e7e29bfe0c2eb658a39445a4f779",
    "collocations.tab": "8e2da1225e4dd2cc9dba261ee231ccb134859e21b46006e7f472c5ee269af0cf",
    "ortho_context.tab": "4bbcca25ed3d3f06c02402abf8419b9f033b8adc06e7b482eca4e45f81a5dc4c",
    "sent_starters.txt": "f3f8535483e1dba487241b764945168123bca3209a9645e59acd1225dc76edac",
}
PUNKT = DataSet(
    "NLTK's sentence splitter",
    "as nltk_data has it",
    WebFile(
        name="nltk_data/tokenizers/punkt_tab.zip",
        urls=(
            "https://raw.githubusercontent.com/nltk/nltk_data/"
            "4f15a3d89eefe9748ec1c05be495d91289197155/packages/tokenizers/punkt_tab.zip",
        ),
        members={f"punkt_tab/english/{name}": digest for name, digest in _ENGLISH.items()},
    ),
    ("nltk_data/tokenizers/punkt_tab/english", "punkt_tab/english"),
)
SQUAD = DataSet(
    "SQuAD 2.0, dev",
    "CC BY-SA 4.0",
    WebFile(
        name="squad.json",
        urls=("https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",),
        sha256="80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
        also=("dev-v2.0.json",),
    ),
)
HOTPOT = DataSet(
    "HotpotQA, dev with distractors",
    "CC BY-SA 4.0",
    WebFile(
        name="hotpotqa.json",
        urls=(
            "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
            f"{HUB}/datasets/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/"
            "hotpot_dev_distractor_v1.json",
        ),
        sha256="e3da074df24e8369009918aa5cdbdd254dadcde4c63f7569d36afd6f2268caa8",
        also=("hotpot_dev_distractor_v1.json",),
    ),
)
WORDS = DataSet(
    "English words, for long cwe prompts",
    "Apache-2.0 (RULER)",
    WebFile(
        name="english_words.json",
        urls=(f"https://media.githubusercontent.com/media/{_RULER}/english_words.json",),
        sha256="affcd6d45fdf3cc843d585c99c97ad615094e760e6c4756b654bab6c73bc2eca",
    ),
)
TREC = tuple(
    DataSet(
        "TREC question classification",
        "none stated; Li & Roth 2002",
        WebFile(
            name=f"trec/{name}",
            urls=(f"https://cogcomp.seas.upenn.edu/Data/QA/QC/{name}",),
            sha256=digest,
            also=(name,),
        ),
    )
    for name, digest in trec.SHA256.items()
)


def _of_hub(about: str, licence: str, file: HubFile | None, *names: str) -> DataSet:
    assert file is not None
    return DataSet(about, licence, file, names)


FAMILIES: Mapping[str, tuple[DataSet, ...]] = {
    "ruler": (ESSAYS, PUNKT, SQUAD, HOTPOT, WORDS),
    "niah": (ESSAYS, PUNKT),
    "longbench": (
        _of_hub(
            "LongBench", "MIT (LongBench); of each data set its own", ARCHIVE,
            "LongBench", "longbench",
        ),
    ),
    "trec": TREC,
    "pg19_ppl": (
        _of_hub(
            "PG-19, test", "Apache-2.0; the books are in the public domain", SOURCES["pg19"].hub,
            *SOURCES["pg19"].names,
        ),
    ),
    "proof_pile_ppl": (
        _of_hub(
            "proof-pile, test", "of each source its own", SOURCES["proof_pile"].hub,
            *SOURCES["proof_pile"].names,
        ),
    ),
    "passkey": (),
    "mini": (),
    "text_ppl": (),
}  # fmt: skip
"""Family of tasks -> what it reads; a task's name begins with its family's."""


def fetch(options: argparse.Namespace) -> int:
    """Run the command: say licences and sizes, download what is missing, compare what is here.

    Args:
        options: `family`, `output`, `mirror`, `dry_run` (see `ctxbench data fetch --help`).

    Raises:
        ValueError: no such family or mirror, no room, or a content that is another one.
        FileNotFoundError: something cannot be downloaded.
    """
    chosen = wanted(options.family)
    mirrors = parse_mirrors(options.mirror)
    folder = Path(options.output or next(iter(data_dirs()), fetched_dir())).expanduser()
    failures, missing = [], []
    for data in chosen:
        try:
            if (here := _here(data, folder)) is None:
                missing.append(data)
            else:
                print(f"{_name(data)}: here already, {here}")
        except (ValueError, FileNotFoundError) as error:
            failures.append(f"{_name(data)}: {error}")
    if not chosen:
        print(f"{', '.join(options.family)}: nothing to fetch; these tasks need no data")
    elif missing:
        failures += _fetch_all(missing, folder, mirrors, options.dry_run)
    if failures:
        raise ValueError("\n".join(failures))
    if missing and not options.dry_run and folder not in [*data_dirs(), fetched_dir()]:
        print(f"Tasks find it with CTXBENCH_DATA={folder}")
    return 0


def wanted(names: Iterable[str]) -> list[DataSet]:
    """Return what families or tasks of these names read, each once.

    Raises:
        ValueError: a name is of no family.
    """
    found: dict[str, DataSet] = {}
    for name in names:
        fit = [each for each in FAMILIES if re.match(rf"{each}\d*(_|$)", name)]
        if name != "all" and not fit:
            raise ValueError(
                f"There is no family of tasks {name!r}{near_names(name, FAMILIES)} Families are "
                f"{', '.join(FAMILIES)}. Give some of them, a task's name, or all."
            )
        for family in fit or FAMILIES:
            found |= {_name(data): data for data in FAMILIES[family]}
    return list(found.values())


def parse_mirrors(texts: Iterable[str]) -> dict[str, str]:
    """Return beginnings of addresses -> what takes their place.

    Raises:
        ValueError: one is no `FROM=TO` of two addresses.
    """
    found = {}
    for text in texts:
        before, equals, after = text.partition("=")
        if not equals or not all(
            each.startswith(("http://", "https://")) for each in (before, after)
        ):
            raise ValueError(
                f"--mirror {text!r} is not allowed; it must be FROM=TO, two addresses that begin "
                f"with https:// or http://. For the hub write --mirror {HUB}=https://MIRROR"
            )
        found[before.rstrip("/")] = after.rstrip("/")
    return found


def mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    """Return where an address is read."""
    for before, after in mirrors.items():
        if url == before or url.startswith(f"{before}/"):
            return after + url.removeprefix(before)
    return url


def _name(data: DataSet) -> str:
    return data.file.name


def _here(data: DataSet, folder: Path) -> Path | None:
    """Return what tasks would read, compared with what it has to be; None where there is none.

    Raises:
        ValueError: it is another content.
    """
    file = data.file
    if isinstance(file, HubFile):
        return find_data(*data.names) or (file.fetch() if file.cached() else None)
    own = folder / file.name
    if file.members:
        if own.exists():
            check_digest(folder, file.name, own, file.sha256, file.urls[0], record=False)
            unpack(file, own)
        return find_data(*data.names, data_dir=folder)
    for root in (folder, *data_dirs(), fetched_dir()):
        for path in (root / name for name in (file.name, *file.also)):
            if path.exists():
                check_digest(root, file.name, path, file.sha256, file.urls[0], record=False)
                return path
    return None


def _fetch_all(
    missing: list[DataSet], folder: Path, mirrors: Mapping[str, str], dry_run: bool
) -> list[str]:
    """Say what is to come, and fetch it; return what failed."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    failures, sources = [], []
    for data in missing:
        try:
            source = _Source(data, mirrors)
        except FileNotFoundError as error:
            failures.append(f"{_name(data)}: {error}")
            continue
        print(f"{_name(data)}: {data.about}, {source.shown_size}; licence: {data.licence}")
        print(f"  from {source.url}")
        sources.append(source)
    if dry_run:
        return failures
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns) as bars:
        for source in sources:
            row = bars.add_task(_name(source.data), total=source.size)

            def show(done: int, total: int | None, row=row) -> None:
                bars.update(row, completed=done, total=total)

            try:
                path = source.fetch(folder, show)
            except (ValueError, FileNotFoundError) as error:
                failures.append(f"{_name(source.data)}: {error}")
            else:
                bars.console.print(f"{_name(source.data)}: {path}", soft_wrap=True, markup=False)
    return failures


class _Source:
    """Where a file is read, its size asked of the server.

    Raises:
        FileNotFoundError: no server has it.
    """

    def __init__(self, data: DataSet, mirrors: Mapping[str, str]):
        self.data = data
        if isinstance(data.file, HubFile):
            mirror = mirrored(HUB, mirrors)
            self._endpoint = None if mirror == HUB else mirror  # none: HF_ENDPOINT is obeyed
            self.url = f"{mirror}/datasets/{data.file.repo}"
            self.size = _size_of(data.file, self._endpoint)
        else:
            self._remote = ask([mirrored(url, mirrors) for url in data.file.urls])
            self.url, self.size = self._remote.url, self._remote.size

    @property
    def shown_size(self) -> str:
        return f"{self.size / 1e6:,.1f} MB" if self.size is not None else "of unknown size"

    def fetch(self, folder: Path, progress: Progress) -> Path:
        if not isinstance(self.data.file, HubFile):
            return download(self.data.file, self._remote, folder, progress)
        from huggingface_hub.constants import HF_HUB_CACHE

        Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
        check_room(Path(HF_HUB_CACHE), self.size or 0, self.data.file.name)
        path = self.data.file.fetch(self._endpoint)
        progress(path.stat().st_size, path.stat().st_size)
        return path


def _size_of(file: HubFile, endpoint: str | None) -> int | None:
    """Ask the hub for a size; whatever goes wrong there is a sentence."""
    try:
        return file.size(endpoint)
    except Exception as error:  # of whatever HTTP library the hub's client uses
        raise FileNotFoundError(
            f"{file.filename} of {file.source}: the hub did not answer "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Try again, "
            f"or give a mirror (--mirror {HUB}=https://MIRROR)."
        ) from error
