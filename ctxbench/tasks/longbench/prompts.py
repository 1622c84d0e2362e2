"""LongBench's prompts: lm-eval's own, mended where they differ from the official ones.

lm-eval's task files hold the 21 prompt texts; compared with the official
`config/dataset2prompt.json` (https://github.com/THUDM/LongBench), six differ in white space.
"""

import re
from dataclasses import dataclass
from functools import cache

from ctxbench.core.compat.templates import LONGBENCH, check_templates

# dataset -> (how lm-eval's prompt ends, how the official one does)
OFFICIAL_ENDS = {
    "lcc": ("Next line of code:", "Next line of code:\n"),
    "repobench-p": ("Next line of code:", "Next line of code:\n"),
    "passage_count": ("The final answer is:", "The final answer is: "),
    "passage_retrieval_en": ("The answer is:", "The answer is: "),
    "samsum": ("{context}\n{input}", "{context}\n\n{input}"),
    "triviaqa": ("{context}\n{input}", "{context}\n\n{input}"),
}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt with the fields `{context}` and `{input}`, and how many tokens may be generated."""

    template: str
    max_gen_toks: int

    def fill(self, row: dict) -> str:
        """Put a row's texts in; what they contain is left alone."""
        return re.sub(r"\{(context|input)\}", lambda field: row[field[1]], self.template)


@cache
def load_prompt(dataset: str, templates: str = "checked") -> Prompt:
    """Return the prompt of a data set.

    Args:
        dataset: a LongBench name without `_e`.
        templates: metadata; `unchecked` goes on with a text that is not the one that was checked.

    Raises:
        ValueError: the installed lm-eval's prompt is not the one that was checked.
    """
    check_templates([LONGBENCH[dataset]], templates)
    text, _, max_gen_toks = LONGBENCH[dataset].read().rpartition("\n")
    # The copy of the data that lm-eval reads calls the official column `input` `question`.
    template = text.replace("{{context}}", "{context}")
    template = template.replace("{{question}}", "{input}")
    theirs, official = OFFICIAL_ENDS.get(dataset, ("", ""))
    if template.endswith(theirs):
        template = template.removesuffix(theirs) + official
    return Prompt(template=template, max_gen_toks=int(max_gen_toks))
