"""Values that nobody expects, put anywhere into a tree of JSON or YAML."""

import copy
import json

from hypothesis import strategies as st

from ctxbench.core.errors import raised_by_us, user_message

TEXTS = (
    *("", " ", "x", "..", "../../x", "/etc/passwd", "a/b", "a\nb", "a\x00b", "\x1b[2J", "\u202ex"),
    *("<script>alert(1)</script>", "\\input{/etc/passwd}", "=1+1", "[x](javascript:y)", "%s{0}{x}"),
    *(
        "\ud800",
        "é" * 50,
        "x" * 10_000,
        "1k",
        "32k",
        "1e9",
        "nan",
        "None",
        "true",
        "*.py",
        "~",
        "-",
    ),
    *("mini", "none", "yarn", "a=b", "a,b", "{length}", "\u017f", "\U0001d518", "\u0661\u0662"),
)
NUMBERS = (0, -1, 1, 2, 255, 10**4, 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1e308, 1e-300)
NO_NUMBERS = (float("nan"), float("inf"), -float("inf"))
OTHERS = (None, True, False, [], {}, [[]], [None], {"x": 1}, [1, "x"], {"": None}, [{}], {"a": {}})
VALUES = st.one_of(
    st.sampled_from([*TEXTS, *NUMBERS, *NO_NUMBERS, *OTHERS]),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.recursive(st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
).map(copy.deepcopy)  # what is drawn may be changed


def paths(tree, at=()):
    """Yield where there is something in a tree, the tree itself first."""
    yield at
    parts = dict(enumerate(tree)) if isinstance(tree, list) else tree
    for key, value in parts.items() if isinstance(parts, dict) else ():
        yield from paths(value, (*at, key))


@st.composite
def changed(draw, tree, most=3):
    """Draw a tree with some of its parts replaced, removed, doubled or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.sampled_from([*paths(tree)]))
        if not at:
            if draw(st.integers(0, 19)) == 0:  # rarely: all else is lost
                return draw(VALUES)
            continue
        inside = tree
        for key in at[:-1]:
            inside = inside[key]
        how = draw(st.sampled_from(["replace", "replace", "remove", "double", "add"]))
        if how == "remove":
            del inside[at[-1]]
        elif how == "double" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[at[-1]]))
        elif how == "add" and isinstance(inside, dict):
            inside[draw(st.sampled_from(TEXTS))] = draw(VALUES)
        else:
            inside[at[-1]] = draw(VALUES)
    return tree


@st.composite
def damaged(draw, content):
    """Draw bytes of a file that is cut, has other bytes in it, or is of something else."""
    how = draw(st.sampled_from(["cut", "bytes", "other", "bom"]))
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    if how == "cut":
        return content[:at]
    if how == "bom":
        return b"\xff\xfe" + content
    some = draw(st.binary(min_size=1, max_size=8))
    return content[:at] + some + content[at + len(some) :] if how == "bytes" else some


def as_json(tree) -> bytes:
    """Return JSON as programs write it that do not look at what they write."""
    return json.dumps(tree, ensure_ascii=True).encode()


def check_sentence(error: BaseException) -> None:
    """Assert that an error is one for users: a message, raised by a line of ours."""
    message = user_message(error)
    assert message is not None, f"{type(error).__name__}: {error}"
    assert isinstance(error, OSError) or raised_by_us(error), f"not ours: {error!r}"
    assert len(message) < 20_000
