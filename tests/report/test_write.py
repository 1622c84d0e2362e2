"""The whole report: what is written, that it repeats, that it needs nothing."""

import argparse
import csv
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctxbench.report import cli
from ctxbench.report.contents import gather
from ctxbench.report.formats import latex, markdown
from ctxbench.report.write import write_report
from tests.report.synthetic import DATE, mini_plan, paper_plan, write_study

FIGURES = [f"figure-{number}.png" for number in range(1, 6)]


def run(*words):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    options = parser.parse_args(["report", *map(str, words)])
    return options.run(options)


@pytest.fixture(scope="module")
def report(mini_study, tmp_path_factory):
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("report")
    write_report(mini_study, out)
    return out


def test_a_folder_called_study(mini_study, tmp_path, monkeypatch, capsys):
    (tmp_path / "study").symlink_to(mini_study)
    monkeypatch.chdir(tmp_path)
    for words in (["study"], ["study", "study"]):
        assert run(*words, "--out", "out", "--no-figures") == 0
        assert "out/report.md" in capsys.readouterr().out


def test_files(report):
    names = sorted(str(path.relative_to(report)) for path in report.rglob("*") if path.is_file())
    assert [name for name in names if name.startswith("figures/")] == [
        f"figures/{name}" for name in FIGURES
    ]
    assert {"report.md", "report.html", "tables.tex", "cells.csv", "comparisons.csv"} <= set(names)
    assert {"tables/overview-1k.csv", "tables/perplexity.csv", "tables/subtasks-2k.csv"} <= set(
        names
    )


def test_all_figures_and_tables_of_the_paper_from_all_its_cells(tmp_path):
    pytest.importorskip("matplotlib")
    plan = paper_plan(seeds=(0,))
    few = ("base", "ntk_frozen", "pi", "ntk_8x", "ntk_16x", "longlora")
    plan["rows"] = [row for row in plan["rows"] if row["name"] in few]
    write_report(write_study(tmp_path / "study", plan, samples=6), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name in FIGURES:
        assert f"figures/{name}" in text
        assert (tmp_path / "figures" / name).stat().st_size > 10_000
    after = [
        n
        for found in re.findall(r"^###? .*after Tables? ([\d, ]+)", text, re.M)
        for n in found.split(", ")
    ]
    assert sorted(map(int, after)) == list(range(1, 17))
    assert all(f"Lu et al., Table {number}:" in text for number in range(1, 17))
    assert "stands in" not in text


def test_markdown_says_findings_failures_and_intervals(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    assert "- **appears**: The base model collapses past its window" in text
    assert "Not there: CLEX, seed 0, ppl_4k: failed: out of memory: 3 GB asked, 2 GB there" in text
    assert "## Not there" in text
    assert "- YaRN, seed 0, manyshot_64: missing: not run" in text
    table = text.partition("## Perplexity by length")[2].partition("####")[0]
    numbers = re.findall(r"(\d+\.\d+)\*{0,2} (\[[\d.]+\u2013[\d.]+\])?", table)
    assert len(numbers) == 12 * 6 - 1
    assert all(interval for _, interval in numbers)


def test_markdown_begins_with_what_is_decided_and_the_heat_maps(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    title, needle, *_ = text.split("\n\n")
    assert title == "# A synthetic study"
    interval = r"\[[\d.]+\u2013[\d.]+\]"
    assert re.match(
        rf"Needle: Base \S+ {interval} at its window of 256, \d\.\d {interval} at \S+: it collapses"
        rf"\. Cured, the intervals apart, by \d of \d+ methods, \S+ first: [\d.]+ {interval}\.$",
        needle,
    )
    assert text.index("figures/figure-1.png") < text.index("## Which findings")


def test_what_a_study_lacks_is_said_at_the_end_and_not_in_the_menu(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    menu = re.findall(r'<a href="#([\w-]+)">([^<]+)</a>', page.partition("</nav>")[0])
    assert [name for name, _ in menu][:3] == ["maps", "findings", "overview"]
    assert ("ruler", "Four of eight") in menu, "what stands in has its own name"
    assert "scale-grid" not in dict(menu)
    assert all(f'id="{name}"' in page for name, _ in menu)
    absent = page.partition('id="absent"')[2]
    assert "No row of this study fixes alpha" in absent
    assert "Lu et al., Table 9" in absent
    assert (
        "### Scale factor against perplexity (after Table 9)"
        in ((report / "report.md").read_text(encoding="utf-8").partition("## Not in this study")[2])
    )


def test_cells_and_comparisons(report):
    cells = list(csv.DictReader((report / "cells.csv").read_text().splitlines()))
    assert {cell["status"] for cell in cells} == {"done", "failed", "missing"}
    done = [cell for cell in cells if cell["status"] == "done"]
    assert all(float(c["low"]) <= float(c["value"]) <= float(c["high"]) for c in done)
    assert all(cell["command"].startswith("lm_eval ") for cell in done)
    pairs = list(csv.DictReader((report / "comparisons.csv").read_text().splitlines()))
    needle = [p for p in pairs if p["column"] == "needle_4k"]
    assert len(needle) == 11 * 10 / 2, "all pairs but LongLoRA's, whose cell is missing"
    assert all(0 < float(pair["p"]) <= 1 for pair in pairs)


def test_equal_cells_give_equal_files(tmp_path):
    """Another place, another order of completion, another day, other seconds."""
    plan = mini_plan(lengths=(256, 1024, 4096))
    plan["rows"] = [row for row in plan["rows"] if row["name"] in ("base", "pi", "ntk_8x")]
    study = write_study(tmp_path / "study", plan, samples=10, failed=[("pi", 1, "needle_1k")])
    other, report = tmp_path / "elsewhere", tmp_path / "report"
    write_report(study, report)
    files = [path for path in study.rglob("*") if path.is_file()]
    random.Random(0).shuffle(files)
    for path in files:
        target = other / str(path.relative_to(study)).replace(DATE, "2031-12-31T23-59-59.9")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if path.name == "cell.json":
            target.write_text(target.read_text().replace('"seconds": 1.5', '"seconds": 99.0'))
    write_report(other, tmp_path / "out")
    ours = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert ours == sorted(
        p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file()
    )
    for name in ours:
        assert (report / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_nothing_in_it_names_the_machine(mini_study, report):
    for path in report.rglob("*"):
        if path.suffix in (".md", ".html", ".csv", ".tex"):
            assert str(mini_study) not in path.read_text(encoding="utf-8"), path.name


def test_the_page_is_self_contained(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!#)", text)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text
    identities = re.findall(r'\bid="([^"]+)"', text)
    assert len(identities) == len(set(identities))
    for link in re.findall(r'href="#([^"]+)"', text):
        assert link in identities


def test_latex_is_balanced_and_escaped(report):
    text = (report / "tables.tex").read_text(encoding="utf-8")
    body = re.sub(r"(?<!\\)%.*", "", text)
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") > 15
    assert body.count(r"\toprule") == body.count(r"\bottomrule")
    assert not re.search(r"(?<!\\)[_#]", re.sub(r"\\label\{[^}]*\}", "", body))
    for table in re.findall(r"\\begin\{tabular\}\{(l+r*)\}(.*?)\\end\{tabular\}", body, re.S):
        columns, lines = table
        for line in lines.split(r"\\"):
            if "&" in line and "multicolumn" not in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1


def test_markdown_and_latex_mark_the_best(mini_study):
    contents = gather(mini_study)
    tables = [table for section in contents.sections for table in section.tables]
    best = [
        (table, entry)
        for table in tables
        for line in table.lines
        for entry in line.entries
        if entry.mark == "best"
    ]
    assert best
    for table, entry in best:
        assert f"**{entry.text}** [{entry.interval}]" in markdown(table)
        assert rf"\textbf{{{entry.text}}}" in latex(table)


# ---------------------------------------------------------------- command line


def test_command(mini_study, tmp_path, capsys):
    assert run(mini_study, "--out", tmp_path, "--no-figures") == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "report.html"),
        str(tmp_path / "report.md"),
    ]
    assert not list(tmp_path.rglob("*.png"))
    assert "Figures were not drawn" in (tmp_path / "report.md").read_text()


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="ctxbench report heatmap"):
        run(tmp_path)


def test_without_matplotlib(mini_study, tmp_path, monkeypatch):
    from ctxbench.report import figures

    monkeypatch.setattr(figures, "have_matplotlib", lambda: False)
    with pytest.raises(ValueError, match=r"pip install matplotlib.*--no-figures"):
        write_report(mini_study, tmp_path)


def test_importing_the_report_is_light():
    code = (
        "import sys, ctxbench.report.write;"
        "heavy = {'torch', 'lm_eval', 'matplotlib', 'transformers', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
