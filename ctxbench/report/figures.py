"""Figures 2, 3 and 4 of the paper, as PNG and as SVG that follows a page's theme.

Figures 2 and 3 have one panel a row, all others in grey behind, so that curves which lie on each
other can be told apart; figure 4 has one a benchmark. A figure is drawn once; in the SVG every
colour of `COLOURS` becomes the CSS variable of that name, so light and dark are the page's affair.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import Any

from ctxbench.core.atomic_file import write_inside
from ctxbench.core.lengths import length_name
from ctxbench.core.protocol import CLASSES
from ctxbench.report.correlation import Panel, scopes
from ctxbench.report.curves import Curve, by_position, many_shot
from ctxbench.report.numbers import Numbers

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
_PERPLEXITIES = (2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 500, 1000)
_ACROSS = 5  # small panels beside each other
_HINT = (
    "Drawing figures needs matplotlib, which is not installed. Install it with "
    "`pip install matplotlib`, or give --no-figures."
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
        made = io.BytesIO()
        self.figure.savefig(made, dpi=150, metadata={"Software": None}, facecolor=COLOURS["page"])
        write_inside(path.parent, path.name, made.getvalue())

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
                "Grey: the other rows.",
                _by_row(shots, "examples in the prompt", "accuracy (%)", str, bars=True),
            )
        )
    losses = by_position(numbers)
    if losses:
        found.append(
            Plot(
                "figure-3",
                "Figure 3 · Loss by position",
                "Mean negative log-likelihood (nats a token) by position in the context, four "
                "points a doubling; bands are 95 % intervals over texts. All rows read the same "
                "texts, so differences between rows are surer than the bands: the table of "
                "perplexity by position tests them in pairs. Grey: the other rows. Dotted: the "
                "base model's window and the common trained length.",
                _by_row(
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
                "logarithmic scale; bars are 95 % intervals, the line is a least-squares fit over "
                "all rows. Correlations within each class: the table below.",
                _scatter(panels),
            )
        )
    return found


# --------------------------------------------------------------------- drawing


def _figure(panels: int, across: int, width: float, height: float):
    """Return a figure of panels of that size (inches), so many beside each other."""
    import matplotlib
    from matplotlib.figure import Figure

    down = -(-panels // across)
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(width * across + 0.4, height * down), layout="constrained")
        axes = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    for axis in axes[panels:]:
        axis.remove()
    for axis in axes[:panels]:
        for side, frame in axis.spines.items():
            frame.set_visible(side in ("left", "bottom"))
            frame.set_color(COLOURS["rule"])
        axis.set_facecolor("none")
        axis.tick_params(colors=COLOURS["muted"], labelsize=7, length=2.5, width=0.6)
        axis.grid(axis="y", color=COLOURS["rule"], linewidth=0.5)
        axis.set_axisbelow(True)
    return figure, axes[:panels]


def _by_row(curves: list[Curve], x_label, y_label, tick, bars=False, marks=()):
    across = min(_ACROSS, len(curves))
    figure, axes = _figure(len(curves), across, 2.2, 1.75)
    xs = sorted({point[0] for curve in curves for point in curve.points})
    ticks = xs if bars else [2.0**n for n in range(5, 24) if xs[0] <= 2.0**n <= xs[-1] * 1.1]
    ticks = ticks[:: -(-len(ticks) // 5)]
    for number, (axis, curve) in enumerate(zip(axes, curves, strict=True)):
        axis.set_xscale("log", base=2)
        for other in curves:
            if other is not curve:
                x, y = [p[0] for p in other.points], [p[1] for p in other.points]
                axis.plot(x, y, color=COLOURS["context"], linewidth=0.6, zorder=1)
        _draw(axis, curve, COLOURS[curve.row.group], bars)
        for mark in marks:
            axis.axvline(mark, color=COLOURS["muted"], linewidth=0.8, linestyle=":", zorder=1.5)
        axis.set_xticks(ticks, [tick(int(x)) for x in ticks])
        axis.minorticks_off()
        axis.set_xlim(xs[0] / 1.2, xs[-1] * 1.2)
        axis.set_title(curve.row.label, fontsize=8, color=COLOURS[curve.row.group], loc="left")
        if number + across >= len(curves):
            axis.set_xlabel(x_label, fontsize=7.5, color=COLOURS["muted"])
        if number % across == 0:
            axis.set_ylabel(y_label, fontsize=7.5, color=COLOURS["muted"])
    _class_legend(figure, {curve.row.group for curve in curves})
    return figure


def _draw(axis, curve: Curve, colour: str, bars: bool) -> None:
    x, y, low, high = zip(*curve.points, strict=True)
    if bars:
        axis.vlines(x, low, high, color=colour, linewidth=0.8, alpha=0.5, zorder=2)
    elif all(value == value for value in low):
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    style = {"marker": "o", "markersize": 3} if bars else {}
    axis.plot(x, y, color=colour, linewidth=1.5, zorder=3, **style)


def _class_legend(figure, groups: set[str]) -> None:
    """Say below a figure which colour is which class of methods."""
    from matplotlib.lines import Line2D

    present = [group for group in CLASSES if group in groups]
    figure.legend(
        [
            Line2D([], [], color=COLOURS[group], marker="o", markersize=4.5, linestyle="")
            for group in present
        ],
        [CLASSES[group] for group in present],
        loc="outside lower left",
        ncols=len(present),
        frameon=False,
        fontsize=7,
        labelcolor=COLOURS["ink"],
    )


def _name(axis, label: str, x: float, height: float, size: float, colour: str) -> None:
    """Write a name right of an axis: x as a fraction of it, height in its data."""
    axis.annotate(
        label,
        (x, height),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=size,
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
    figure, axes = _figure(len(panels), len(panels), 4.1, 3.6)
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
        said = [f"{n}: rank {rank}\n    linear {line}" for n, rank, line in scopes(panel.points)]
        title = "\n".join([panel.title, *said[:2]])  # over all rows, and within classes
        axis.set_title(title, fontsize=7, color=COLOURS["ink"], loc="left")
        axis.set_xlabel("score (%)", fontsize=7.5, color=COLOURS["muted"])
        ends = [100 * end for point in panel.points for end in point.score_ends]
        margin = 0.04 * max(max(ends, default=100) - min(ends, default=0), 1.0)
        axis.set_xlim(min(ends, default=0) - margin, max(ends, default=100) + margin)
    ends = [
        end
        for panel in panels
        for point in panel.points
        for end in (point.perplexity, *point.perplexity_ends)
        if end == end
    ]
    low, high = min(ends, default=1.0), max(ends, default=100.0)
    ticks = [t for t in _PERPLEXITIES if low / 1.05 <= t <= high * 1.05]
    axes[0].set_ylim(low / 1.06, high * 1.06)
    axes[0].set_yticks(ticks, [str(t) for t in ticks])
    for axis, panel in zip(axes, panels, strict=True):
        axis.minorticks_off()
        _name_points(axis, panel)
    length = length_name(panels[0].length)
    axes[0].set_ylabel(f"perplexity at {length} tokens", fontsize=7.5, color=COLOURS["muted"])
    _class_legend(figure, {point.group for panel in panels for point in panel.points})
    return figure


def _fit(axis, xs: Sequence[float], losses: Sequence[float]) -> None:
    """Draw the least-squares line of loss on score."""
    if len(xs) < 3 or min(xs) == max(xs):
        return
    slope, start = linear_regression(xs, losses)
    ends = [min(xs), max(xs)]
    heights = [math.exp(start + slope * x) for x in ends]
    axis.plot(ends, heights, color=COLOURS["context"], linewidth=1, zorder=1)


def _name_points(axis, panel: Panel) -> None:
    """Write the names right of a panel in the order of their points, each with a line to its."""
    if not panel.points:
        return
    bottom, top = (math.log(end) for end in axis.get_ylim())
    top -= 0.02 * (top - bottom)
    points = sorted(panel.points, key=lambda p: (p.perplexity, p.score))
    gap = min(0.048, 1 / len(points)) * (top - bottom)
    heights = _apart([math.log(point.perplexity) for point in points], gap, bottom, top)
    right = axis.get_xlim()[1]
    reach = axis.transData + axis.transAxes.inverted()
    for point, height in zip(points, heights, strict=True):
        x, y = reach.transform((100 * point.score, point.perplexity))
        _, end = reach.transform((right, math.exp(height)))
        axis.plot(
            [x, 1.0, 1.03],
            [y, end, end],
            transform=axis.transAxes,
            color=COLOURS["context"],
            linewidth=0.5,
            clip_on=False,
            zorder=1,
        )
        _name(axis, point.label, 1.045, math.exp(height), 6.5, COLOURS[point.group])
