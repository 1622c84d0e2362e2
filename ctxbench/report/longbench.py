"""LongBench's means: the plain one of the paper's Table 11, and the macro mean of six categories.

Bai et al. 2023 (https://arxiv.org/abs/2308.14508) report the mean of the means of six categories;
Lu et al. 2024 the plain mean of 16 data sets, all but the five Chinese ones.
"""

from collections.abc import Sequence

from ctxbench.core.lengths import task_family
from ctxbench.core.longbench_sets import ALL, CATEGORIES, CHINESE, LABELS, PAPER, E
from ctxbench.core.protocol import Column
from ctxbench.report.numbers import Measure


def data_set(leaf: str) -> str:
    """Return the data set of a leaf task: `longbench_32k_qasper_e` is `qasper`."""
    return task_family(leaf).removeprefix("longbench_").removesuffix("_e")


def summaries(column: Column, leaves: Sequence[str], group: str) -> tuple[list[Measure], str]:
    """Return the means over a LongBench column, and what a reader must know about them.

    Each category's mean, the plain mean and the macro mean; of 21 data sets also both of the
    paper's 16. A set that is none of the three (16, 21, 13 of LongBench-E) gets its plain mean
    alone, and the note says what it lacks.
    """
    by_name = {data_set(leaf): leaf for leaf in leaves}
    whole = ALL if set(by_name) & set(CHINESE) else PAPER
    if all(leaf.endswith("_e") for leaf in leaves):
        whole = E
    if set(by_name) != set(whole):
        plain = _mean(f"Mean of {len(leaves)}", column, tuple(leaves), group)
        return [plain], _gaps(by_name, whole)
    categories = _categories(by_name, whole)
    made = [_mean(name, column, members, group) for name, members in categories.items()]
    for names in (whole, PAPER) if whole is ALL else (whole,):
        said = f"of the paper's {len(names)}" if names is not whole else f"of {len(names)}"
        made.append(_mean(f"Mean {said}", column, tuple(by_name[n] for n in names), group))
        made.append(_macro(f"Macro mean {said}", column, _categories(by_name, names), group))
    return made, ""


def _gaps(by_name: dict[str, str], whole: Sequence[str]) -> str:
    absent = [name for name in whole if name not in by_name]
    other = [name for name in by_name if name not in whole]
    parts = [f"without {', '.join(absent)}"] * bool(absent)
    parts += [f"with {', '.join(other)}"] * bool(other)
    return (
        f"LongBench here is not its {len(whole)} data sets: {'; '.join(parts)}. So there is no "
        "macro mean, and its mean is not to be compared with that of the whole."
    )


def _categories(by_name: dict[str, str], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the leaf tasks of each category, as far as `names` have them."""
    return {
        LABELS[category]: tuple(by_name[name] for name in members if name in names)
        for category, members in CATEGORIES.items()
    }


def _mean(label: str, column: Column, leaves: tuple[str, ...], group: str) -> Measure:
    return Measure(label, (column,), group, leaves, summary=True)


def _macro(
    label: str, column: Column, categories: dict[str, tuple[str, ...]], group: str
) -> Measure:
    shares = {leaf: 1 / len(members) for members in categories.values() for leaf in members}
    return Measure(label, (column,), group, tuple(shares), tuple(shares.values()), summary=True)
