"""The page's own script on the page's own elements, in an engine without a browser.

`dom.js` is a document of ninety lines: no layout, no style. What depends on those is tested in a
Chromium (`test_page.py`); this runs wherever `pip install` does.
"""

import json
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ctxbench.report.contents import gather
from ctxbench.report.page import page

EMPTY = ("meta", "input", "br", "img", "link")


class Tree(HTMLParser):
    """Nested lists [tag, attributes, children] of an HTML page."""

    def __init__(self):
        super().__init__()
        self.root = ["", {}, []]
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = [tag, {name: value or "" for name, value in attrs}, []]
        self.open[-1][2].append(element)
        if tag not in EMPTY:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, tag

    def handle_data(self, text):
        self.open[-1][2].append(text)


@pytest.fixture(scope="module")
def source(mini_study):
    return page(gather(mini_study), [])


@pytest.fixture
def js(source):
    """Evaluate an expression on the loaded page."""
    with loaded(source) as evaluate:
        yield evaluate


@contextmanager
def loaded(source):
    """Load a page; give what evaluates an expression on it."""
    engine = pytest.importorskip("py_mini_racer", reason="needs `pip install mini-racer`")
    tree = Tree()
    tree.feed(source)
    tree.close()
    assert tree.open == [tree.root], "every element is closed"
    html = next(e for e in tree.root[2] if isinstance(e, list))
    script = source.rpartition("<script>")[2].partition("</script>")[0]
    context = engine.MiniRacer()
    context.eval(Path(__file__).with_name("dom.js").read_text(encoding="utf-8"))
    context.eval(f"load({json.dumps(html)})")
    context.eval(f"(() => {{ {script} }})()")
    context.eval("const one = (s) => document.querySelector(s);")
    context.eval("const all = (s) => document.querySelectorAll(s);")
    yield lambda expression: json.loads(context.eval(f"JSON.stringify(({expression}) ?? null)"))
    context.close()


def click_head(js, table, column):
    js(f"fire(one('{table}').querySelectorAll('thead button')[{column - 1}], 'click').type")


def names(js, table):
    return js(
        f"one('{table}').querySelectorAll('tbody tr:not(.group)').map(r => r.cells[0].textContent)"
    )


def values(js, table, column):
    return js(
        f"one('{table}').querySelectorAll('tbody tr:not(.group)')"
        f".map(r => r.cells[{column}].dataset.sort ?? null)"
    )


def hidden_groups(js, table):
    return js(f"one('{table}').querySelectorAll('tr.group').filter(r => r.hidden).length")


def test_sorts(js):
    table = "#perplexity .variant table"
    before = names(js, table)
    click_head(js, table, 7)
    up = values(js, table, 7)
    assert [float(v) for v in up if v] == sorted(float(v) for v in up if v)
    assert up[-1] is None, "the failed cell comes last"
    assert hidden_groups(js, table) == 4
    click_head(js, table, 7)
    assert [v for v in values(js, table, 7) if v] == [v for v in up if v][::-1]
    click_head(js, table, 7)
    assert names(js, table) == before
    assert hidden_groups(js, table) == 0
    click_head(js, "#needle .variant table", 3)
    scores = [float(v) for v in values(js, "#needle .variant table", 3) if v]
    assert scores == sorted(scores, reverse=True), "scores sort from the best"


def test_means_stay_at_the_end(paper_study):
    table = "#longbench .variant table"
    with loaded(page(gather(paper_study), [])) as js:
        means = [name for name in names(js, table) if name.startswith(("Mean", "Macro"))]
        assert means
        assert names(js, table)[-len(means) :] == means
        click_head(js, table, 1)
        assert names(js, table)[-len(means) :] == means


def test_with_more_methods_than_tasks_the_methods_stand_downwards(js):
    table = "#longbench .variant table"
    assert "No change" in names(js, table)
    heads = js(f"one('{table}').querySelectorAll('thead button').map(b => b.textContent)")
    assert heads[-1] == "Mean"


def tip(js):
    return js("one('#tip').hidden ? '' : one('#tip').children.map(c => c.textContent).join('|')")


def test_hover(js):
    assert tip(js) == ""
    cell = "one('#needle').querySelectorAll('td[data-cell]')[12]"
    js(f"fire({cell}, 'mouseover').type")
    said = tip(js)
    assert said.startswith(js(f"{cell}.closest('tr').cells[0].textContent") + " · Needle at")
    assert js(f"{cell}.querySelector('b').textContent") in said.split("|")
    assert "95 % interval" in said
    assert "lm_eval --model ctxext" in said
    js(f"fire({cell}, 'mouseout').type")
    assert tip(js) == ""


def press(js, key):
    return js(f"fire(document.activeElement, 'keydown', {{key: '{key}'}}).prevented ?? false")


def test_keyboard(js):
    js("one('#perplexity').querySelector('td[tabindex=\"0\"]').focus()")
    assert tip(js).startswith("Base · Perplexity at 128")
    assert press(js, "ArrowRight")
    assert tip(js).startswith("Base · Perplexity at 256")
    press(js, "ArrowDown")
    assert tip(js).startswith("NTK-Frozen · Perplexity at 256")
    assert js("one('#perplexity').querySelectorAll('td[tabindex=\"0\"]').length") == 1
    press(js, "ArrowLeft")
    press(js, "ArrowUp")
    assert not press(js, "ArrowUp") or tip(js).startswith("Base · Perplexity at 128")
    press(js, "Escape")
    assert tip(js) == ""
    js("one('#perplexity').querySelector('td.failed').focus()")
    assert "out of memory: 3 GB asked, 2 GB there" in tip(js)


def test_switches_lengths_everywhere_at_once(js):
    def shown(section):
        return js(f"all('#{section} .variant').filter(v => !v.hidden).map(v => v.dataset.length)")

    assert shown("overview") == ["2048"], "first: the length of the common budget"
    js("fire(one('#overview input[data-length=\"512\"]'), 'change').type")
    assert shown("overview") == shown("subtasks") == shown("correlation") == ["512"]
    assert shown("needle") == [""], "a section without lengths stays"


def test_light_dark_and_print(js):
    js("fire(one('.theme'), 'click').type")
    assert js("document.documentElement.dataset.theme") == "dark"
    js("fire(one('.theme'), 'click').type")
    assert js("document.documentElement.dataset.theme") == "light"
    js("one('details').open = true")
    js("listeners.beforeprint.forEach(f => f())")
    assert js("all('details:not([open])').length") == 0
    js("listeners.afterprint.forEach(f => f())")
    assert js("all('details[open]').length") == 1, "what the reader had opened stays"
