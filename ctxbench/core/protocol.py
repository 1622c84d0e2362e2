"""A study's protocol and its files: `ctxbench study` writes what `ctxbench report` reads.

DIR/study.json                      the protocol: rows, columns, one budget, seeds
DIR/train/ROW/seed-K/train.yaml     how a row was trained
DIR/cells/ROW/seed-K/COLUMN/        cell.json, results_*.json, samples_*.jsonl
"""

from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from ctxbench.core.lengths import task_family
from ctxbench.core.settings import FolderName, Length, LongText, ShortText, read_settings

VERSION = 1
"""Of study.json; files without one are of version 1."""

CLASSES = {
    "frozen": "Exact attention, frozen",
    "exact": "Exact attention, fine-tuned",
    "approximate": "Approximate attention",
    "control": "Controls",
}
"""Classes of methods in the order of the paper's Table 1."""

_NOT_WRITTEN: dict[str, Any] = {"written": False}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method under one training (or none), the same in every column.

    Attributes:
        name: of its folder.
        label: shown.
        group: the class of its method as in the paper's Table 1; `control` for controls.
        method: extension method or preset; None: the checkpoint's own, or the recipe's.
        options: of the method.
        train: fields of the training run over the common budget's; None: not trained here.
        own_budget: why the training is not the common one; required where it differs.
        checkpoint: a published model in place of the study's own; its `pretrained`.
        trained_length: tokens; of a published checkpoint, as its row says.
        untrained: whether the same method without training is a row too (`NAME-untrained`).
        kinds: of columns measured; None: all.
        model_args: further arguments of the model at evaluation.
        metadata: further lm-eval metadata at evaluation.
        seeds: [None] where nothing is drawn; a study file without them means the study's.
    """

    name: FolderName
    label: ShortText
    group: Literal["frozen", "exact", "approximate", "control"] = field(metadata={"key": "class"})
    method: str | None = None
    options: dict = field(default_factory=dict, hash=False)
    train: dict | None = field(default=None, hash=False)
    own_budget: str | None = None
    checkpoint: str | None = None
    trained_length: Length | None = None
    untrained: bool = field(default=True, metadata=_NOT_WRITTEN)
    kinds: tuple[str, ...] | None = field(default=None, metadata={"key": "columns"})
    model_args: dict = field(default_factory=dict, hash=False)
    metadata: dict = field(default_factory=dict, hash=False)
    seeds: tuple[int | None, ...] = (None,)

    @property
    def trained(self) -> bool:
        """Whether its weights were trained to another length, here or as a checkpoint."""
        return self.train is not None or self.trained_length is not None

    def has(self, column: "Column") -> bool:
        """Return whether a column is measured for this row."""
        return self.kinds is None or column.kind in self.kinds


@dataclass(frozen=True, kw_only=True)
class Column:
    """One measurement: a task, or a group of tasks that is averaged, at one length.

    Attributes:
        name: of its folder.
        kind: what the report takes it for.
        length: of the prompts, tokens.
        shots: in the prompt.
        tasks: of lm-eval.
        metric: of lm-eval's results, with its filter where a task has several (`acc,none`).
        higher_is_better: of the metric.
        chance: score of guessing.
        metadata: lm-eval metadata.
        documents: which of the task's documents: the first so many, or `START:STOP:STEP`.
        requests: prompts of the column's length that one cell reads, for `ctxbench plan`.
        needs: local data it looks for, as alternatives, for `ctxbench plan`.
    """

    name: FolderName
    kind: str
    length: int | None = None
    shots: int | None = None
    tasks: tuple[str, ...]
    metric: str
    higher_is_better: bool
    chance: float | None = None
    metadata: dict = field(default_factory=dict, hash=False)
    documents: int | str | None = None
    requests: int = field(default=0, metadata=_NOT_WRITTEN)
    needs: tuple[str, ...] = field(default=(), metadata=_NOT_WRITTEN)

    @property
    def family(self) -> str:
        """The name of the first task without its length."""
        return task_family(self.tasks[0])


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a study compares and measures.

    Attributes:
        name: of its file.
        title: shown.
        model: every row begins with: bundled, folder, or hub id.
        model_name: shown.
        window: of the model, tokens.
        length: window at evaluation, tokens: the longest prompt and its answer.
        budget: fields of the training runs that are equal for all rows; {}: nothing is trained.
        seeds: of the trained rows.
        notes: what a reader of the report must know.
        model_args: of every evaluation.
        task_files: digest of the study's own task files; None: it has none.
        rows: in the order of the tables.
        columns: in the order of the tables.
    """

    name: str
    title: ShortText
    model: str
    model_name: ShortText
    window: int
    length: int
    budget: dict = field(default_factory=dict, hash=False)
    seeds: tuple[int, ...] = ()
    notes: tuple[LongText, ...] = ()
    model_args: dict = field(default_factory=dict, hash=False)
    task_files: str | None = None
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True)
class CellNote:
    """What is said of a cell in its cell.json.

    Attributes:
        row: its name.
        seed: of the row's training.
        column: its name.
        status: a missing one is measured on purpose in other columns only.
        reason: why it is not done.
        command: that measures it.
        seconds: it took.
    """

    row: FolderName
    seed: int | None
    column: FolderName
    status: Literal["done", "failed", "missing"]
    reason: LongText | None
    command: str | None
    seconds: float = 0.0


def read_protocol(content: Any, where: str) -> Protocol:
    """Return the protocol in a study.json; keys that this version has not are passed over.

    Raises:
        ValueError: something is missing, of another type, or of another version.
    """
    known = _known(Protocol, content)
    if isinstance(known, dict):
        if (version := content.get("version", VERSION)) != VERSION:
            raise ValueError(f"{where} is of version {version!r}; this ctxbench reads {VERSION}.")
        for name, cls in (("rows", Row), ("columns", Column)):
            if isinstance(known.get(name), list):
                known[name] = [_known(cls, item) for item in known[name]]
    protocol = read_settings(Protocol, known, where)
    if without := [column.name for column in protocol.columns if not column.tasks]:
        raise ValueError(f"{where}: the columns {', '.join(without)} have no task. Add it.")
    return protocol


def read_note(content: Any, where: str) -> CellNote:
    """Return what is in a cell.json.

    Raises:
        ValueError: something is missing or of another type.
    """
    return read_settings(CellNote, content, where, strict=False)


def as_json(value: Protocol | Row | Column | CellNote) -> dict[str, Any]:
    """Return what is written of one of these."""
    found: dict[str, Any] = {"version": VERSION} if isinstance(value, Protocol) else {}
    for key, part in _fields(Protocol if "version" in found else type(value)).items():
        if part.metadata.get("written", True):
            found[key] = getattr(value, part.name)
    for name in ("rows", "columns") if isinstance(value, Protocol) else ():
        found[name] = [as_json(item) for item in found[name]]
    return found


def _known(cls: type, content: Any) -> Any:
    """Return the keys of a mapping that are fields of a class."""
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if key in _fields(cls)}


def _fields(cls: Any) -> dict[str, Field]:
    """Return key -> field."""
    return {part.metadata.get("key", part.name): part for part in fields(cls)}


# ----------------------------------------------------------------------- files


def seed_folder(seed: int | None) -> str:
    """Return the name of the folder of a seed."""
    return f"seed-{'none' if seed is None else seed}"


def training_folder(row: str, seed: int | None) -> str:
    """Return where a row's training writes, in the study's folder."""
    return f"train/{row}/{seed_folder(seed)}"


def cell_folder(row: str, seed: int | None, column: str) -> str:
    """Return where a cell's files are, in the study's folder."""
    return f"cells/{row}/{seed_folder(seed)}/{column}"
