"""The page in a headless Chromium: sorts, hovers, keyboard, lengths, prints, asks for nothing."""

import json
from contextlib import closing

import pytest

from ctxbench.report.write import write_report
from tests.report.chromium import Browser, find

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(mini_study, tmp_path_factory):
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("page")
    write_report(mini_study, out)
    return out / "report.html"


@pytest.fixture
def browser(page, tmp_path):
    if find() is None:
        pytest.skip("needs Chromium: put it on the path, or name it in CTXBENCH_CHROMIUM")
    with closing(Browser(tmp_path / "profile")) as opened:
        opened.open(page)
        yield opened
        assert opened.errors == []
        assert opened.console == []
        assert opened.requests == [page.resolve().as_uri()]


def names(browser, table):
    return browser.js(
        f"[...document.querySelectorAll({json.dumps(table)} + ' tbody tr:not(.group) th')]"
        ".filter(th => th.offsetParent).map(th => th.textContent)"
    )


def values(browser, table, column):
    return browser.js(
        f"[...document.querySelectorAll({json.dumps(table)} + ' tbody tr:not(.group)')]"
        f".map(row => row.cells[{column}].dataset.sort ?? null)"
    )


def test_sorts(browser):
    table = "#perplexity .variant table"
    before = names(browser, table)
    head = f"{table} thead tr:last-child th:nth-child(8) button"
    browser.click(head)
    up = values(browser, table, 7)
    assert [float(v) for v in up if v] == sorted(float(v) for v in up if v)
    assert up[-1] is None, "the failed cell comes last"
    assert browser.js(f"document.querySelector('{head}').parentElement.ariaSort") == "ascending"
    assert browser.js(f"document.querySelectorAll('{table} tr.group:not([hidden])').length") == 0
    browser.click(head)
    down = values(browser, table, 7)
    assert [v for v in down if v] == [v for v in up if v][::-1]
    assert down[-1] is None
    browser.click(head)
    assert names(browser, table) == before
    assert browser.js(f"document.querySelectorAll('{table} tr.group:not([hidden])').length") == 4
    browser.click("#needle .variant thead th:nth-child(4) button")
    scores = [float(v) for v in values(browser, "#needle .variant table", 3) if v]
    assert scores == sorted(scores, reverse=True), "scores sort from the best"


def tip(browser):
    return browser.js("document.getElementById('tip').hidden ? '' : tip.innerText")


def test_hover_shows_score_interval_and_command(browser):
    assert tip(browser) == ""
    cell = "#needle tbody:nth-of-type(2) tr:nth-child(2) td[data-cell]"
    browser.hover(cell)
    said = tip(browser)
    shown = browser.js(f"document.querySelector('{cell}').innerText").split("\n")[0]
    assert said.startswith("PI · Needle at 128")
    assert shown in said
    assert "95 % interval" in said
    assert "seed 0" in said
    assert "seed 1" in said
    assert "lm_eval --model ctxext --model_args pretrained=train/pi/seed-0" in said
    box = browser.js("(({left, right, top}) => [left, right, top])(tip.getBoundingClientRect())")
    assert box[0] >= 0
    assert box[1] <= 1280
    browser.hover("#needle h2")
    assert tip(browser) == ""


def test_keyboard(browser):
    """One stop a table; arrows within; Escape closes; a failed cell says why."""
    stops = browser.js(
        "[...document.querySelectorAll('section table')]"
        ".filter(t => t.querySelector('[data-cell]'))"
        ".map(t => t.querySelectorAll('td[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}
    browser.js("document.querySelector('#perplexity td[tabindex=\"0\"]').focus()")
    assert "Base · Perplexity at 128" in tip(browser)
    browser.press("ArrowRight")
    assert "Base · Perplexity at 256" in tip(browser)
    browser.press("ArrowDown")
    assert "NTK-Frozen · Perplexity at 256" in tip(browser)
    browser.press("ArrowLeft")
    browser.press("ArrowUp")
    assert "Base · Perplexity at 128" in tip(browser)
    assert browser.js("document.activeElement.getAttribute('aria-describedby')") == "tip"
    browser.press("Escape")
    assert tip(browser) == ""
    browser.js("document.querySelector('#perplexity td.failed').focus()")
    assert "out of memory: 3 GB asked, 2 GB there" in tip(browser)
    browser.js("document.querySelector('#maps td.none').focus()")
    assert "needle_4k: missing: not run" in tip(browser)
    browser.press("Tab")
    assert tip(browser) == "" or "LongLoRA" not in tip(browser)


def test_switches_lengths_everywhere_at_once(browser):
    def shown(section):
        return browser.js(
            f"[...document.querySelectorAll('#{section} .variant:not([hidden])')]"
            ".map(v => v.dataset.length)"
        )

    assert shown("overview") == ["2048"], "first: the length of the common budget"
    browser.click('#overview input[data-length="512"]')
    assert shown("overview") == shown("subtasks") == shown("correlation") == ["512"]
    assert browser.js("document.querySelector('#subtasks input:checked').dataset.length") == "512"
    browser.js("document.querySelector('#overview input:checked').focus()")
    browser.press("ArrowRight")
    assert shown("overview") == ["1024"]


def test_light_and_dark(browser):
    def colour():
        return browser.js("getComputedStyle(document.body).backgroundColor")

    light = colour()
    browser.theme(dark=True)
    dark = colour()
    assert dark != light
    browser.click(".theme")
    assert colour() == light, "the button overrules the system"
    browser.click(".theme")
    assert colour() == dark


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(browser, dark):
    """Contrast of at least 4.5 (WCAG AA) of text on the page, in the maps, in the tooltip."""
    browser.theme(dark)
    worst = browser.js(
        """(() => {
          const canvas = document.createElement("canvas")
            .getContext("2d", {willReadFrequently: true});
          const rgb = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
          const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255;
            return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const behind = (e) => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(c) && c !== "transparent") return c; } };
          let worst = [99, ""];
          const all = "p, dt, dd, td, th, small, summary, .verdict, nav a";
          for (const e of document.querySelectorAll(all)) {
            if (!e.textContent.trim()) continue;
            const a = light(rgb(getComputedStyle(e).color)), b = light(rgb(behind(e)));
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (contrast < worst[0])
              worst = [contrast, e.className + " " + e.textContent.slice(0, 40)];
          }
          return worst;
        })()"""
    )
    assert worst[0] >= 4.5, worst


def test_prints(browser):
    assert browser.pdf().startswith(b"%PDF")
    browser.js("dispatchEvent(new Event('beforeprint'))")
    assert browser.js("document.querySelectorAll('details:not([open])').length") == 0
    browser.js("dispatchEvent(new Event('afterprint'))")
    assert browser.js("document.querySelectorAll('details[open]').length") == 0
    browser.click(".theme")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    assert browser.js("getComputedStyle(document.body).color") == "rgb(27, 30, 35)", "ink on paper"
    assert browser.js("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_a_narrow_screen_scrolls_tables_not_the_page(browser):
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.call("Emulation.setDeviceMetricsOverride", **phone)
    assert browser.js("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", [1400, 1000, 400])
def test_nothing_is_clipped_at_any_width(browser, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", **screen)
    assert browser.js("document.documentElement.scrollWidth") <= width
    hidden = (
        "[...document.querySelectorAll('section *')].filter(e => e.offsetParent"
        " && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'hidden')"
    )
    assert browser.js(f"{hidden}.length") == 0, "what is wider scrolls"
    wide = (
        "[...document.querySelectorAll('.scroll')].filter(e => e.offsetParent"
        " && e.scrollWidth > e.clientWidth + 1).length"
    )
    assert width < 1400 or browser.js(wide) == 0, "on a wide screen every table is whole"


def test_heat_maps_come_first(browser):
    order = browser.js("[...document.querySelectorAll('main > section')].map(s => s.id)")
    assert order[:3] == ["maps", "findings", "overview"]
    assert browser.js("document.querySelector('header .lead').textContent").startswith("Needle: ")
