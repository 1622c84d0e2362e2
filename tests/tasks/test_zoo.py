"""Every rule of counting against the plain tokenizer, over a zoo of tokenizers."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxbench.tasks.additivity import additivity
from ctxbench.tasks.ruler.family import DoesNotFit, RulerSettings
from ctxbench.tasks.ruler.subtasks import SUBTASKS
from ctxbench.tasks.token_count import TokenCounter, render
from ctxbench.tasks.tokenizer import load_tokenizer
from tests import zoo


@pytest.fixture(scope="module")
def data(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXBENCH_DATA", str(data_dir))
    yield data_dir
    patch.undo()


def plain(tokenizer, text: str, special_tokens: bool = False) -> int:
    return len(tokenizer(text, add_special_tokens=special_tokens, verbose=False).input_ids)


# ----------------------------------------------------------------------- counts


@pytest.mark.parametrize("name", zoo.NAMES)
def test_what_is_proven_of_each(zoo_path, name):
    tokenizer = load_tokenizer(zoo_path(name))
    reason = additivity(tokenizer).why_not
    if name in zoo.SUMMED:
        assert reason is None
    else:
        assert zoo.WHOLE[name][1] in (reason or "")
    assert (reason or "proven") in TokenCounter(tokenizer).how


FRAGMENTS = (
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " \n",
        "\u00a0",
        "\u2003",
        "\x1c",
        "\u200b",
        "▁",
        "▁▁",
    ),
    *("a", "B", "x", "the", "The", "grass", "special", "magic", "sky", "is", "blue", "uuid", "ing"),
    *("7", "12", "1234567", "a1", "-", "-b", "9f-", "'s", "I'LL", ".", "...", ":", ",", "_/", "[@"),
    *("é", "e\u0301", "\u0301", "ﬁ", "½", "Σ", "İ", "ß", "漢", "の", "Привет", "😀", "\u00a8", "ΐ"),
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<unused1>", "<0x0A>", "Ġ", "##"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=24).map("".join)


@pytest.mark.filterwarnings("ignore:This sequence already has")  # ByT5, of a text with </s>
@settings(max_examples=40)
@given(text=TEXTS, special_tokens=st.booleans())
@pytest.mark.parametrize("name", zoo.NAMES)
def test_counts_are_the_plain_tokenizers(zoo_path, name, text, special_tokens):
    tokenizer = load_tokenizer(zoo_path(name))
    counter = TokenCounter(tokenizer, special_tokens)
    assert counter.count([text]) == plain(tokenizer, text, special_tokens)


# ------------------------------------------------------------------------ RULER


def samples(subtask, settings_, counter, count):
    family = SUBTASKS[subtask].make(settings_)
    try:
        for made in itertools.islice(family.make(counter), count):
            if isinstance(made, DoesNotFit):
                yield made.tokens, None
            else:
                yield made[0], (render(made[1].parts) + made[1].prefix, made[2])
    except ValueError as error:
        yield str(error), None


NEEDLES = [name for name in SUBTASKS if name.startswith("niah")]


@pytest.mark.parametrize(("number", "name"), list(enumerate(zoo.NAMES)))
def test_ruler(zoo_path, data, number, name):
    """Needles with every tokenizer, every subtask with some of them; all with all are slow."""
    others = ("vt", "cwe", "fwe", "qa_1", "qa_2")
    subtasks = [NEEDLES[number % len(NEEDLES)], others[number % 5], others[(number + 2) % 5]]
    tokenizer = load_tokenizer(zoo_path(name))
    check_ruler(tokenizer, RulerSettings(2048, 1, seed=7), subtasks)
    strict = RulerSettings(2048, 1, seed=7, fidelity="strict")
    check_ruler(tokenizer, strict, list(SUBTASKS)[number % len(SUBTASKS) :][:1])


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["nvidia", "lceg", "strict"])
@pytest.mark.parametrize("name", zoo.NAMES)
def test_ruler_whole(zoo_path, data, name, fidelity):
    tokenizer = load_tokenizer(zoo_path(name))
    check_ruler(tokenizer, RulerSettings(4096, 3, seed=7, fidelity=fidelity), SUBTASKS)


def check_ruler(tokenizer, settings_, subtasks) -> None:
    """Make samples by sums and by whole prompts: the same, of the right lengths, not too long."""
    special_tokens = settings_.fidelity == "strict"
    sums = TokenCounter(tokenizer, special_tokens)
    whole = TokenCounter(tokenizer, special_tokens, additive=False)
    for subtask in subtasks:
        made = list(samples(subtask, settings_, sums, settings_.samples))
        if sums.whole is None:
            assert made == list(samples(subtask, settings_, whole, settings_.samples))
        new_tokens = SUBTASKS[subtask].family.new_tokens
        for prompt, tokens in filter(None, (sample for _, sample in made)):
            if (subtask, settings_.fidelity) != ("vt", "lceg"):
                assert tokens == plain(tokenizer, prompt, special_tokens) + new_tokens, subtask
            # LCEG's generator counts chain and example of vt apart, and forgets fwe's new tokens.
            assert tokens <= settings_.length or settings_.fidelity == "lceg"
