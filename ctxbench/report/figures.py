"""Figures 2, 3 and 4 of the paper, as PNG and as SVG that follows a page's theme.

One panel per class of methods, the other classes' rows in grey behind, names at the ends of the
lines. A figure is drawn once; in the SVG every colour of `COLOURS` becomes the CSS variable of that
name, so light and dark are the page's affair.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxbench.lengths import length_name
from ctxbench.report.correlation import Panel, scopes
from ctxbench.report.curves import Curve, by_position, many_shot
from ctxbench.report.numbers import Numbers
from ctxbench.report.study_plan import CLASSES

COLOURS = {
    "ink": "#1b1e23",
    "muted": "#6b7078",
    "rule": "#d9dce1",
    "context": "#c5c9d0",
    "page": "#fefefe",
    "frozen": "#8a5a9e",
    "exact": "#2a6fb0",
    "approximate": "#c0641c",
    "control": "#5f7f5c",
}
_MARKERS = "osD^vPX*<>"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_HINT = (
    "Drawing figures needs matplotlib, which is not installed. Install it with "
    "`pip install 'ctxbench[plots]'`, or give --no-figures."
)


@dataclass(frozen=True)
class Plot:
    """A drawn figure."""

    name: str
    title: str
    caption: str
    figure: Any

    def png(self, path: Path) -> None:
        """Write it as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.figure.savefig(path, dpi=150, metadata={"Software": None}, facecolor=COLOURS["page"])

    def svg(self) -> str:
        """Return it as SVG for a page: colours as CSS variables, names of its own."""
        import matplotlib

        text = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(
                text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
        body = text.getvalue()
        body = body[body.index("<svg") :]
        body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.S)
        for name, colour in COLOURS.items():
            body = body.replace(colour, f"var(--{name})")
        body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # the page's
        body = re.sub(r"<style.*?</style>\s*", "", body, flags=re.S)  # it would style the page
        body = re.sub(r'\bid="', f'id="{self.name}-', body)
        body = re.sub(r'(href="|url\()#', rf"\1#{self.name}-", body)
        label = f'role="img" aria-label="{self.title}"'
        return re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg {label} viewBox="\1">', body)


def have_matplotlib() -> bool:
    """Return whether figures can be drawn here."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if not have_matplotlib():
        raise ValueError(_HINT)


def plots(numbers: Numbers, panels: Sequence[Panel]) -> list[Plot]:
    """Draw Figures 2, 3 and 4, as far as the study has what they show; needs matplotlib."""
    found = []
    shots = many_shot(numbers)
    if shots:
        found.append(
            Plot(
                "figure-2",
                "Figure 2 · Many-shot learning",
                "Accuracy (%) over the number of examples in the prompt; bars are 95 % intervals. "
                "Grey: the other classes.",
                _by_class(shots, "examples in the prompt", "accuracy (%)", str, bars=True),
            )
        )
    losses = by_position(numbers)
    if losses:
        found.append(
            Plot(
                "figure-3",
                "Figure 3 · Loss by position",
                "Mean negative log-likelihood (nats a token) by position in the context; bands are "
                "95 % intervals over texts. Dotted: the base model's window and the common trained "
                "length.",
                _by_class(
                    losses,
                    "position (tokens)",
                    "loss (nats)",
                    length_name,
                    marks=(numbers.study.window, numbers.study.reference_length),
                ),
            )
        )
    if panels:
        found.append(
            Plot(
                "figure-4",
                "Figure 4 · Perplexity against downstream scores",
                f"One point a row, perplexity at {length_name(panels[0].length)} tokens on a "
                "logarithmic scale; the line is a least-squares fit over all rows. Correlations "
                "with intervals: the table below.",
                _scatter(panels),
            )
        )
    return found


# --------------------------------------------------------------------- drawing


def _figure(columns: int, width: float, height: float):
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axis in axes:
        for side, frame in axis.spines.items():
            frame.set_visible(side in ("left", "bottom"))
            frame.set_color(COLOURS["rule"])
        axis.set_facecolor("none")
        axis.tick_params(colors=COLOURS["muted"], labelsize=7, length=2.5, width=0.6)
        axis.grid(axis="y", color=COLOURS["rule"], linewidth=0.5)
        axis.set_axisbelow(True)
    return figure, axes


def _by_class(curves: list[Curve], x_label, y_label, tick, bars=False, marks=()):
    groups = [g for g in CLASSES if any(curve.row.group == g for curve in curves)]
    figure, axes = _figure(len(groups), 2.75 * len(groups) + 0.4, 2.9)
    xs = sorted({point[0] for curve in curves for point in curve.points})
    for axis, group in zip(axes, groups, strict=True):
        axis.set_xscale("log", base=2)
        for curve in curves:
            if curve.row.group != group:
                x, y = [p[0] for p in curve.points], [p[1] for p in curve.points]
                axis.plot(x, y, color=COLOURS["context"], linewidth=0.8, zorder=1)
        members = [curve for curve in curves if curve.row.group == group]
        for number, curve in enumerate(members):
            _draw(axis, curve, number, COLOURS[group], bars)
        for mark in marks:
            axis.axvline(mark, color=COLOURS["muted"], linewidth=0.8, linestyle=":", zorder=1.5)
        ticks = xs if bars else [2.0**n for n in range(5, 24) if xs[0] <= 2.0**n <= xs[-1] * 1.1]
        ticks = ticks[:: -(-len(ticks) // 7)]
        axis.set_xticks(ticks, [tick(int(x)) for x in ticks])
        axis.minorticks_off()
        axis.set_xlim(xs[0] / 1.15, xs[-1] * 1.15)
        axis.set_title(CLASSES[group], fontsize=8, color=COLOURS["ink"], loc="left")
        axis.set_xlabel(x_label, fontsize=7.5, color=COLOURS["muted"])
        _name_ends(figure, axis, members, COLOURS[group])
    axes[0].set_ylabel(y_label, fontsize=7.5, color=COLOURS["muted"])
    return figure


def _draw(axis, curve: Curve, number: int, colour: str, bars: bool) -> None:
    x, y, low, high = zip(*curve.points, strict=True)
    line = {"color": colour, "linewidth": 1.4, "linestyle": _DASHES[number % len(_DASHES)]}
    if bars:
        axis.vlines(x, low, high, color=colour, linewidth=0.8, alpha=0.45, zorder=2)
        line |= {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 3.5}
    elif all(value == value for value in low):
        axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0, zorder=2)
    axis.plot(x, y, zorder=3, **line)


def _name_ends(figure, axis, curves: Sequence[Curve], colour: str) -> None:
    """Write the rows' names right of the ends of their lines, apart from each other."""
    if not curves:
        return
    bottom, top = axis.get_ylim()
    gap = (top - bottom) * 0.066
    ends = sorted((curve.points[-1][1], curve.row.label) for curve in curves)
    heights = _apart([height for height, _ in ends], gap, bottom, top)
    for (_, label), height in zip(ends, heights, strict=True):
        axis.annotate(
            label,
            (1.02, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color=colour,
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Move sorted heights so far that each is a gap above the one below, within the axis."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else max(height, bottom))
    over = max(placed[-1] - top, 0.0)
    for number in range(len(placed) - 1, -1, -1):
        ceiling = top if number == len(placed) - 1 else placed[number + 1] - gap
        placed[number] = min(placed[number], ceiling) if over else placed[number]
    return placed


def _scatter(panels: Sequence[Panel]):
    figure, axes = _figure(len(panels), 3.3 * len(panels) + 0.3, 3.3)
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_yscale("log")
        scores = [100 * point.score for point in panel.points]
        losses = [math.log(point.perplexity) for point in panel.points]
        _fit(axis, scores, losses)
        for point in panel.points:
            bar = {"color": COLOURS[point.group], "linewidth": 0.8, "alpha": 0.4, "zorder": 2}
            axis.plot([100 * s for s in point.score_ends], [point.perplexity] * 2, **bar)
            axis.plot([100 * point.score] * 2, point.perplexity_ends, **bar)
            axis.plot(
                100 * point.score,
                point.perplexity,
                marker="o",
                markersize=4.5,
                color=COLOURS[point.group],
                markeredgewidth=0,
                zorder=3,
            )
        _, rank, _ = scopes(panel.points)[0]
        shown = f"rank correlation {rank}" if rank.value == rank.value else ""
        axis.set_title(f"{panel.title}\n{shown}", fontsize=8, color=COLOURS["ink"], loc="left")
        axis.set_xlabel("score (%)", fontsize=7.5, color=COLOURS["muted"])
        left = min((100 * p.score_ends[0] for p in panel.points), default=0)
        right = max((100 * p.score_ends[1] for p in panel.points), default=100)
        width = max(right - left, 1.0)
        axis.set_xlim(left - 0.07 * width, right + 0.36 * width)
        axis.set_xticks(
            [tick for tick in axis.get_xticks() if left - 5 <= tick <= min(right + 5, 100)]
        )
        _name_points(axis, panel)
    low = min(p.perplexity for panel in panels for p in panel.points)
    high = max(p.perplexity for panel in panels for p in panel.points)
    ticks = [
        t for t in (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200) if low * 0.8 <= t <= high * 1.3
    ]
    axes[0].set_ylim(low / 1.12, high * 1.12)
    axes[0].set_yticks(ticks, [str(t) for t in ticks])
    for axis in axes:
        axis.minorticks_off()
    length = length_name(panels[0].length)
    axes[0].set_ylabel(f"perplexity at {length} tokens", fontsize=7.5, color=COLOURS["muted"])
    return figure


def _fit(axis, xs: Sequence[float], losses: Sequence[float]) -> None:
    """Draw the least-squares line of loss on score."""
    count = len(xs)
    middle = sum(xs) / max(count, 1)
    spread = sum((x - middle) ** 2 for x in xs)
    if count < 3 or spread == 0:
        return
    mean = sum(losses) / count
    slope = sum((x - middle) * (y - mean) for x, y in zip(xs, losses, strict=True)) / spread
    ends = [min(xs), max(xs)]
    heights = [math.exp(mean + slope * (x - middle)) for x in ends]
    axis.plot(ends, heights, color=COLOURS["context"], linewidth=1, zorder=1)


def _name_points(axis, panel: Panel) -> None:
    """Write names right of points; names of near points stand in a column, apart."""
    left, right = axis.get_xlim()
    near = 0.26 * (right - left)
    logs = [math.log(point.perplexity) for point in panel.points] or [0.0]
    gap = max(0.055 * (max(logs) - min(logs) + 0.25), 1e-6)
    placed: list[tuple[float, float]] = []
    for point in sorted(panel.points, key=lambda p: (p.perplexity, p.score)):
        x, y = 100 * point.score_ends[1], math.log(point.perplexity)
        while any(abs(x - a) < near and abs(y - b) < gap * 0.99 for a, b in placed):
            y += gap * 0.25
        placed.append((x, y))
        axis.annotate(
            point.label,
            (x, math.exp(y)),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=COLOURS[point.group],
        )
        if y - math.log(point.perplexity) > gap / 2:  # a line from the name to its point
            axis.plot(
                [100 * point.score, x],
                [point.perplexity, math.exp(y)],
                color=COLOURS["rule"],
                linewidth=0.6,
                zorder=1,
            )
