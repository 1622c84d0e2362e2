"""What the processes of one evaluation tell each other."""

from collections import Counter
from collections.abc import Mapping
from typing import Any


def from_all(value: Any, processes: int) -> list[Any]:
    """Return a value of every process, in their order; all of them must ask.

    Args:
        value: this one's; it must be picklable.
        processes: how many work together.
    """
    if processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])


def summed(counts: Mapping[str, int], processes: int) -> dict[str, int]:
    """Return the sums of counts over all processes; all of them must ask."""
    total: Counter[str] = Counter()
    for each in from_all(dict(counts), processes):
        total.update(each)
    return dict(total)
