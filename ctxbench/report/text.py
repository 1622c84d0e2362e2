"""Sentences that the Markdown and the HTML report share."""

from ctxbench.core.lengths import length_name
from ctxbench.report.contents import Contents
from ctxbench.report.labels import UNTRAINED

ABOUT = (
    "Scores are in percent; perplexities are exp of the mean loss. Every number has a 95 % "
    "interval over documents: Wilson's for scores, at the number of independent scores that their "
    "variance is worth; Student's on the loss for perplexities, with texts as units. Seeds of "
    "training are averaged per document first, so an interval says how well the documents pin the "
    "number, not how far another seed would move it: the seeds' own numbers stand beside it.",
    "Bold is the best only where it is: better than every other row in a paired test on the same "
    "documents (scores: all signs of the units' differences, which for right-or-wrong samples is "
    "McNemar's test; losses: Student's test over texts), at 5 % with Holm's correction for the "
    "number of rivals, and with each of its seeds better than each of theirs. A row with a "
    "training schedule of its own does not compete.",
    "Numbers of the paper are shown beside ours at the same multiple of the base model's window. "
    "They are another model's, on other data: compare shapes, not values.",
)

_BUDGET = {
    "name": "recipe",
    "tokens": "tokens",
    "length": "length",
    "batch_size": "sequences a step",
    "optimizer": "optimizer",
    "lr": "learning rate",
}
"""What is said of the common budget; the whole is in study.json."""


def facts(contents: Contents) -> list[tuple[str, str]]:
    """Return what a study is, as (name, text)."""
    study, protocol = contents.study, contents.study.protocol
    budget = protocol.budget
    shown = [(word, budget[key]) for key, word in _BUDGET.items() if key in budget]
    common = ", ".join(
        f"{word} {value:,}" if isinstance(value, int) else f"{word} {value}".strip()
        for word, value in shown
    )
    done = len(study.planned) - len(study.unfinished)
    found = [
        ("Model", protocol.model_name),
        ("Window", f"{study.window:,} tokens"),
        ("Compared at", f"{length_name(study.reference_length)} tokens"),
        ("Common budget", common),
        ("Seeds", ", ".join(map(str, protocol.seeds))),
        ("Cells", f"{done} of {len(study.planned)} done"),
    ]
    untrained = [row.label for row in study.rows if row.name in study.untrained]
    if untrained:
        found.append(("Untrained", f"{', '.join(untrained)}: {UNTRAINED}"))
    found += [("Note", note) for note in protocol.notes]
    own = [row for row in study.rows if row.own_budget]
    found += [("Own schedule", f"{row.label}: {row.own_budget}") for row in own]
    return [(name, text) for name, text in found if text]
