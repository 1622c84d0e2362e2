"""LongBench's prompts: lm-eval's own, mended where they differ from the official ones.

lm-eval's task files hold the 21 prompt texts; compared with the official
`config/dataset2prompt.json` (https://github.com/THUDM/LongBench), six differ in white space.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

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


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's task files without importing the functions they name."""


_Loader.add_constructor("!function", lambda loader, node: None)


@cache
def load_prompt(dataset: str) -> Prompt:
    """Read the prompt of a data set (a LongBench name without `_e`).

    Raises:
        ValueError: the installed lm-eval's prompt is not the one that was compared.
    """
    text = resources.files("lm_eval.tasks.longbench").joinpath(f"{dataset}.yaml").read_text("utf-8")
    task = yaml.load(text, _Loader)
    # The copy of the data that lm-eval reads calls the official column `input` `question`.
    template = task["doc_to_text"].replace("{{context}}", "{context}")
    template = template.replace("{{question}}", "{input}")
    if dataset in OFFICIAL_ENDS:
        theirs, official = OFFICIAL_ENDS[dataset]
        if not template.endswith((theirs, official)):
            raise ValueError(
                f"The prompt of {dataset!r} in the installed lm-eval ends with {template[-30:]!r}; "
                f"known are {theirs!r} and {official!r}. Install lm-eval 0.4.13, or report this."
            )
        template = template.removesuffix(official).removesuffix(theirs) + official
    return Prompt(template=template, max_gen_toks=task["generation_kwargs"]["max_gen_toks"])
