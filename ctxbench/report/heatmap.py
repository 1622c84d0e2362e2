"""Heat maps: score over length and depth, from the records of needle tasks.

The look is that of the papers (Fu et al. 2024, https://arxiv.org/abs/2402.10171, `visualize.py`):
length to the right, depth downwards with 0 % on top, red 0 to green 1, a white dashed line at the
trained length. Theirs puts the line at the number of tokens on an axis of categories, so it falls
outside; here it stands between the last trained length and the next.
"""

import io
import textwrap
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from ctxbench.core.atomic_file import write_inside
from ctxbench.core.errors import printable
from ctxbench.core.intervals import wilson
from ctxbench.core.lengths import length_name, task_family
from ctxbench.report.formats import write_csv
from ctxbench.report.old_samples import divisor
from ctxbench.report.result_files import Run
from ctxbench.report.samples import TaskSamples, read_samples

COLOURS = ("#F0496E", "#EBB839", "#0CD79F")
_MISSING = "#D9D9D9"
_CELL_WIDTH = 7  # characters, in the terminal
_MOST_DEPTHS = 20  # more distinct ones than this are put into tenths
_COLUMNS = ("model", "method", "options", "length", "depth", "runs", "mean", "low", "high")
_MOST_NUMBERS = 12  # columns up to which a cell shows its number


@dataclass
class HeatMap:
    """Scores over length and depth of one task family under one model and method.

    Attributes:
        family: the tasks' name without the length.
        model: and what else changes its answers.
        method: with whether it was trained.
        options: of the method.
        trained_length: tokens; None: not known.
        mean_text: its mean in words; computed from the scores without.
        scores: by (length in tokens, depth in percent); 0 to 1.
    """

    family: str
    model: str
    method: str
    options: str
    trained_length: int | None
    mean_text: str = ""
    scores: dict[tuple[int, float], list[float]] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """The columns."""
        return sorted({length for length, _ in self.scores})

    @property
    def depths(self) -> list[float]:
        """The rows, from the top."""
        return sorted({depth for _, depth in self.scores})

    @property
    def boundary(self) -> int | None:
        """Columns within the trained length, where a line belongs; None where none does."""
        inside = bisect_right(self.lengths, self.trained_length or 0)
        return inside if 0 < inside < len(self.lengths) else None

    @property
    def everything(self) -> list[float]:
        """All scores."""
        return [score for scores in self.scores.values() for score in scores]

    def mean(self, length: int, depth: float) -> float | None:
        """Return the mean of a cell, None if it is empty."""
        scores = self.scores.get((length, depth))
        return fmean(scores) if scores else None


def heat_maps(
    runs: Iterable[Run],
    metric: str = "score",
    family: str | None = None,
    trained_length: int | None = None,
) -> list[HeatMap]:
    """Collect the heat maps of runs, oldest first; of a task run twice the newest counts.

    Args:
        runs: oldest first.
        metric: of the records; 0 to 1, or 0 to 100.
        family: only this one.
        trained_length: in place of what the results say, tokens.

    Raises:
        ValueError: no record has a length, a depth and the metric.
    """
    newest = {(task, r.model, r.method, r.options): r for r in runs for task in r.samples}
    parts: dict[tuple[str, str, str, str], list[tuple[Run, TaskSamples]]] = defaultdict(list)
    for (task, *_), run in newest.items():
        if (found := read_samples(run, task, metric, needle=True)).samples:
            parts[task_family(task), run.model, run.method, run.options].append((run, found))
    maps = [
        HeatMap(*who, trained_length or members[0][0].trained_length, scores=_cells(members))
        for who, members in sorted(parts.items(), key=lambda part: part[0][0])
        if family in (None, who[0])
    ]
    if not maps:
        families = sorted({who[0] for who in parts})
        raise ValueError(
            f"No record with a length, a depth and the metric {metric!r}"
            + (f" of the task family {family!r}" if family else "")
            + f"; families that have them: {', '.join(families) or 'none'}. Needle tasks "
            "(niah, niah_lceg, passkey, mini_needle, ruler) have them when lm_eval was run with "
            "--log_samples."
        )
    return maps


def _cells(members: Iterable[tuple[Run, TaskSamples]]) -> dict[tuple[int, float], list[float]]:
    """Return the scores of some tasks by length and depth."""
    tasks = [found for _, found in members]
    largest = max((s.total for task in tasks if not task.scaled for s in task.samples), default=0)
    cells = defaultdict(list)
    for task in tasks:
        for sample in task.divided(divisor(largest)).samples:
            assert sample.length is not None
            assert sample.depth is not None
            cells[sample.length, round(100 * sample.depth, 1)].append(sample.total)
    return _few_depths(cells)


def _few_depths(scores: dict[tuple[int, float], list[float]]):
    """Put depths into tenths if there are too many to show."""
    if len({depth for _, depth in scores}) <= _MOST_DEPTHS:
        return scores
    tenths = defaultdict(list)
    for (length, depth), values in scores.items():
        tenths[length, min(depth // 10, 9) * 10 + 5].extend(values)
    return dict(tenths)


def titles(maps: Sequence[HeatMap]) -> list[str]:
    """Return what tells the maps of one picture apart: the method, and what else differs."""
    models = {found.model for found in maps}
    found_titles = []
    for found in maps:
        same = [m for m in maps if (m.model, m.method) == (found.model, found.method)]
        parts = (
            [found.model] * (len(models) > 1) + [found.method] + [found.options] * (len(same) > 1)
        )
        found_titles.append(" ".join(filter(None, parts)))
    return found_titles


def summary(found: HeatMap) -> str:
    """Return the mean of all records and its 95 % interval in words."""
    if found.mean_text:
        return found.mean_text
    low, high = wilson(found.everything)
    return f"mean {fmean(found.everything):.2f} [{low:.2f}, {high:.2f}]"


def _runs_per_cell(maps: Iterable[HeatMap]) -> str:
    counts = {len(scores) for found in maps for scores in found.scores.values() if scores}
    fewest, most = min(counts), max(counts)
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return f"{number} run{'s' * (most > 1)} a cell"


# --------------------------------------------------------------------- picture


def draw(maps: Sequence[HeatMap], path: Path) -> None:
    """Draw the maps of one family side by side into a PNG.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap, Normalize
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise ValueError(
            "Drawing a PNG needs matplotlib, which is not installed. Install it with "
            "`pip install matplotlib`, or give --no-png for the terminal alone."
        ) from missing

    colours = LinearSegmentedColormap.from_list("needle", COLOURS).with_extremes(bad=_MISSING)
    columns = min(len(maps), 2 if len(maps) <= 4 else (3 if len(maps) <= 9 else 4))
    rows = -(-len(maps) // columns)
    widest = max(len(found.lengths) for found in maps)
    tallest = max(len(found.depths) for found in maps)
    panel = (
        max((0.42 if widest <= _MOST_NUMBERS else 0.28) * widest, 2.6) + 0.9,
        0.27 * tallest + 1.1,
    )
    height = panel[1] * rows + 0.5
    figure = Figure(figsize=(panel[0] * columns + 0.8, height), layout="constrained", dpi=120)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, found, title in zip(axes, maps, titles(maps), strict=False):
        axis.set_title(f"{textwrap.fill(title, 44)}\n{summary(found)}", fontsize=9)
        _panel(axis, found, colours)
    for axis in axes[len(maps) :]:
        axis.set_axis_off()
    scale = ScalarMappable(Normalize(0, 1), colours)
    share = min(0.8, 3 / height)  # as long as 3 inches, 0.16 thick
    bar = figure.colorbar(
        scale, ax=list(axes), shrink=share, aspect=share * height / 0.16, pad=0.02
    )
    bar.ax.tick_params(labelsize=8)
    bar.set_label("score", fontsize=8)
    models = sorted({found.model for found in maps})
    model = f"{models[0]}: " if len(models) == 1 else ""
    line = "; dashed: the trained length" * any(found.boundary for found in maps)
    figure.suptitle(f"{model}{maps[0].family}, {_runs_per_cell(maps)}{line}", fontsize=10)
    made = io.BytesIO()
    figure.savefig(made, metadata={"Software": None})
    write_inside(path.parent, path.name, made.getvalue())


def _panel(axis, found: HeatMap, colours) -> None:
    """Draw one map into matplotlib axes."""
    lengths, depths = found.lengths, found.depths
    means = [[found.mean(length, depth) for length in lengths] for depth in depths]
    shown = [[float("nan") if mean is None else mean for mean in row] for row in means]
    axis.pcolormesh(shown, cmap=colours, vmin=0, vmax=1)
    axis.invert_yaxis()
    many = len(lengths) > _MOST_NUMBERS
    axis.set_xticks(
        [i + 0.5 for i in range(len(lengths))],
        [length_name(length) for length in lengths],
        rotation=90 if many else 0,
        fontsize=8,
    )
    axis.set_yticks([i + 0.5 for i in range(len(depths))], [f"{d:g}" for d in depths], fontsize=8)
    axis.tick_params(length=0)
    axis.set_xlabel("length (tokens)", fontsize=8)
    axis.set_ylabel("depth (%)", fontsize=8)
    for frame in axis.spines.values():
        frame.set_visible(False)
    if not many:
        for y, row in enumerate(means):
            for x, mean in enumerate(row):
                text = "" if mean is None else _short(mean)
                axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7)
    if found.boundary:
        axis.axvline(found.boundary, color="white", linestyle=(0, (3, 1.5)), linewidth=2.5)


def _short(mean: float) -> str:
    """Return a mean in three characters: 0, .25, 1."""
    return f"{mean:.2f}".lstrip("0").replace(".00", "") or "0"


# -------------------------------------------------------------------- terminal


def print_map(found: HeatMap, title: str, console=None) -> None:
    """Draw a map in the terminal: coloured where it can, with numbers everywhere."""
    from rich.console import Console

    console = console or Console()
    head = printable(f"{found.family}: {title}, {summary(found)}")
    console.print(head, highlight=False, soft_wrap=True, markup=False)
    at_once = max(1, (console.width - 10) // _CELL_WIDTH)
    for first in range(0, len(found.lengths), at_once):
        console.print(_table(found, range(first, min(first + at_once, len(found.lengths)))))
    if found.trained_length:
        console.print(f"trained to {length_name(found.trained_length)} tokens", highlight=False)
    console.print()


def _table(found: HeatMap, columns: range):
    """Return some columns of a map as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=0)
    table.add_column("depth % ", justify="right", no_wrap=True)
    for column in columns:
        if column == found.boundary:
            table.add_column("┆", width=1)
        table.add_column(length_name(found.lengths[column]), justify="center", width=_CELL_WIDTH)
    for depth in found.depths:
        row = [Text(f"{depth:g} ")]
        for column in columns:
            if column == found.boundary:
                row.append(Text("┆"))
            mean = found.mean(found.lengths[column], depth)
            text = ("-" if mean is None else f"{mean:.2f}").center(_CELL_WIDTH)
            row.append(Text(text, f"black on {_MISSING if mean is None else _colour(mean)}"))
        table.add_row(*row)
    return table


def _colour(mean: float) -> str:
    """Return the colour of a score, linear between the three."""
    at = min(max(mean, 0.0), 1.0) * (len(COLOURS) - 1)
    first = min(int(at), len(COLOURS) - 2)
    pairs = zip(*(bytes.fromhex(c[1:]) for c in COLOURS[first : first + 2]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (at - first)):02x}" for a, b in pairs)


# ----------------------------------------------------------------------- table


def write_cells(maps: Sequence[HeatMap], path: Path) -> None:
    """Write every cell with its count, mean and 95 % interval as CSV."""
    rows: list[list[object]] = [list(_COLUMNS)]
    for found in maps:
        for (length, depth), scores in sorted(found.scores.items()):
            numbers = (fmean(scores), *wilson(scores))
            who = (found.model, found.method, found.options)
            rows.append([*who, length, depth, len(scores), *(f"{n:.4f}" for n in numbers)])
    write_inside(path.parent, path.name, write_csv(rows).encode())
