"""The pages, in a real browser: they render, sort, filter, and say nothing on the console."""

from __future__ import annotations

import re
import shutil
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from compare_helpers import make_sweep, small_report, stablenet, write_network

from stablenet.compare.publish.page import report_page, sweep_page
from stablenet.compare.publish.tables import write_all
from stablenet.compare.statistics import cactus, make_view, profile
from stablenet.compare.store import Store
from stablenet.report.report import dumps

parse = ET.fromstring  # of files that we wrote
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return make_sweep(tmp_path_factory.mktemp("sweep"))


def write(folder, html, name="page.html"):
    path = folder / name
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Tab:
    """A page opened in the browser, with all that it said and asked for."""

    def __init__(self, browser, uri, *, width=1200, scheme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(uri)

    def close(self):
        self.page.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))] == []

    def column(self, table, head):
        heads = self.page.locator(f"#table-{table} th").all_inner_texts()
        number = [re.sub(r" [▲▼]$", "", text) for text in heads].index(head)
        return self.page.locator(f"#table-{table} tbody tr td:nth-child({number + 1})").all_inner_texts()

    def sort(self, table, head):
        self.page.locator(f"#table-{table} th button", has_text=re.compile(f"^{re.escape(head)}$")).click()


@pytest.mark.browser
def test_a_sweep_renders_with_the_statistics_numbers(chromium, sweep, tmp_path):
    with Store(sweep) as store:
        uri = write(tmp_path, sweep_page(store))
        view = make_view(store.rows(), "solver")
    tab = Tab(chromium, uri)
    assert tab.page.title() == "three <solvers> & more · stablenet"
    assert tab.page.locator("h1").inner_text() == "three <solvers> & more"
    assert tab.page.locator("#figures svg").count() == 4
    tab.page.locator("#choices select").first.select_option(label="solver (3)")
    assert tab.column("summary", "solver") == ["cbc", "highs", "scip", "virtual best"]
    assert tab.column("summary", "solved") == ["2", "6", "4", "3"]
    # The page computes profiles itself, for chosen instances: for all of them they are those of the statistics.
    shown = tab.page.evaluate(
        "(() => { const s = window.stablenet, v = s.DATA.views.find((x) => x.axis === 'solver'), m = [0, 1, 2];"
        "return [s.profileOf(v, 'work_s', m, s.cellsOf(v)), s.cactusOf(v, 'work_s', m, s.cellsOf(v))]; })()"
    )
    for computed, curves in zip(shown, (profile(view), cactus(view)), strict=True):
        for points, member in zip(computed, view.members, strict=True):
            np.testing.assert_allclose(points, curves[member])
    assert tab.page.locator("#table-pairs tbody tr").count() == 3
    tab.close()


@pytest.mark.browser
def test_tables_sort_and_filter(chromium, sweep, tmp_path):
    with Store(sweep) as store:
        tab = Tab(chromium, write(tmp_path, sweep_page(store)))
    tab.sort("runs", "work s")
    numbers = [float(text) for text in tab.column("runs", "work s")]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 18
    tab.sort("runs", "work s")
    assert [float(text) for text in tab.column("runs", "work s")] == sorted(numbers)
    tab.page.locator("#filter").fill("scip net2")
    assert set(tab.column("runs", "solver")) == {"scip"}
    assert set(tab.column("runs", "instance")) == {"net2"}
    assert tab.page.locator("#count").inner_text() == "2 of 18 runs"
    tab.page.locator("#filter").fill("")
    tab.page.get_by_label("outcome").select_option("time")
    assert tab.page.locator("#count").inner_text() == "6 of 18 runs"
    tab.close()


@pytest.mark.browser
def test_choices_redraw_figures(chromium, sweep, tmp_path):
    with Store(sweep) as store:
        tab = Tab(chromium, write(tmp_path, sweep_page(store)))
    tab.page.locator("#choices select").first.select_option(label="solver (3)")
    lines = tab.page.locator("#figure-profile path.line")
    before = lines.count()
    tab.page.locator(".legend button").first.click()
    assert lines.count() == before - 1
    assert tab.page.locator("#figure-scatter circle").count() == 3
    tab.page.get_by_label("figures show").select_option("net1")
    assert tab.page.locator("#figure-scatter circle").count() == 1
    tab.page.locator("#figure-scatter circle").hover()
    assert "net1" in tab.page.locator("#tip").inner_text()
    assert tab.page.locator("#maps rect").count() == 6
    tab.page.get_by_label("colour").select_option("positive")
    assert "falsify" in tab.page.locator("#maps").inner_text()
    tab.close()


@pytest.mark.browser
def test_a_glance_counts_what_was_solved(chromium, tmp_path):
    with Store(make_sweep(tmp_path)) as store:
        for row in store.rows():
            key = f"{row['key']}-loose"
            text = dumps(store.report(row["key"]))
            store.add({**row, "key": key, "bounds": "interval", "outcome": "crash" if row["seed"] else "time"}, text)
        store.set_plan(row["key"] for row in store.rows(all_rows=True))
        tab = Tab(chromium, write(tmp_path, sweep_page(store)))
    heads = tab.page.locator("#glance th").all_inner_texts()
    cells = [row.split("\t") for row in tab.page.locator("#glance tbody tr").all_inner_texts()]
    assert heads == ["bounds", "cbc", "highs", "scip"]
    assert [line[0] for line in cells] == ["crown", "interval"]
    assert [" ".join(text.split()) for text in cells[0][1:]] == ["2/6 > limit", "6/6 1.65 s", "4/6 0.99 s"]
    assert [" ".join(text.split()) for text in cells[1][1:]] == ["0/6 > limit"] * 3
    tab.page.locator("#glance td", has_text="0/6").first.hover()
    assert tab.page.locator("#tip").inner_text() == "not solved: 3 time, 3 crash"
    tab.page.locator("#glance").get_by_label("columns").select_option("instance")
    assert tab.page.locator("#glance th").all_inner_texts() == ["bounds", "net0", "net1", "net2"]
    tab.close()


@pytest.mark.browser
def test_figures_and_tables_are_saved(chromium, sweep, tmp_path):
    with Store(sweep) as store:
        tab = Tab(chromium, write(tmp_path, sweep_page(store)))

    def save(selector, text):
        with tab.page.expect_download() as download:
            tab.page.locator(f"{selector} button", has_text=re.compile(f"^{text}$")).click()
        return download.value.path().read_text()

    root = parse(save("#figure-cactus", "SVG"))
    assert root.tag == f"{SVG}svg"
    assert len(root.findall(f"{SVG}text")) > 5
    assert "var(" not in ET.tostring(root, encoding="unicode")
    assert save("#table-summary", "CSV").splitlines()[0].startswith("member,networks,instances,cells,runs,solved")
    assert "\\begin{tabular}" in save("#table-summary", "LaTeX")
    assert len(save("#table-runs", "CSV").splitlines()) == 19
    # Every table and every figure can be saved.
    tables, figures = (tab.page.locator(kind).count() for kind in ("table", "main svg[role=img]"))
    for word in ("CSV", "LaTeX"):
        assert tab.page.get_by_role("button", name=word, exact=True).count() == tables > 3
    latex = save("#table-instances", "LaTeX")
    assert latex.startswith("\\begin{tabular}{lllrr")
    assert latex.count("\\\\\n") == 4
    layers = tab.page.locator("#maps svg").count()
    assert tab.page.get_by_role("button", name="SVG", exact=True).count() == figures - layers + 1
    drawn = parse(save("#maps", "SVG"))
    assert sum(1 for rect in drawn.iter(f"{SVG}rect")) > 6 + layers
    assert "var(" not in ET.tostring(drawn, encoding="unicode")
    tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_on_a_phone_light_and_dark(chromium, sweep, tmp_path, scheme):
    with Store(sweep) as store:
        tab = Tab(chromium, write(tmp_path, sweep_page(store)), width=360, scheme=scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
    bright = np.mean(tab.page.evaluate(ground)) > 128
    assert bright == (scheme == "light")
    # Words in figures are no smaller than 9 pixels.
    figure = "document.querySelector('#figure-profile svg')"
    factor = tab.page.evaluate(f"{figure}.getBoundingClientRect().width / {figure}.viewBox.baseVal.width")
    assert 11 * factor >= 9
    tab.page.locator("#theme").click()
    assert (np.mean(tab.page.evaluate(ground)) > 128) != bright
    tab.close()


@pytest.mark.browser
def test_contradictions_come_first(chromium, tmp_path):
    (tmp_path / "s").mkdir()
    with Store(make_sweep(tmp_path / "s", liar=True)) as store:
        tab = Tab(chromium, write(tmp_path, sweep_page(store)))
    box = tab.page.locator("#contradictions")
    assert "1 run gave wrong answers" in box.inner_text()
    assert "cbc" in box.inner_text()
    places = tab.page.evaluate("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert places[0] == "contradictions"
    assert tab.page.locator("#table-runs tr.wrong").count() == 1
    tab.close()


@pytest.mark.browser
def test_page_of_a_single_run(chromium, tmp_path):
    tab = Tab(chromium, write(tmp_path, report_page(small_report())))
    assert tab.page.locator("#maps rect").count() == 6
    assert tab.page.locator("#bounds svg").count() == 2
    assert tab.page.locator("#witnesses canvas").count() == 2
    grey = tab.page.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(4, 4, 1, 1).data]")
    assert grey == [255, 255, 255, 255]
    assert tab.column("solves", "nodes") == ["7"]
    assert tab.page.locator("#bounds button").count() == tab.page.locator("#bounds svg").count()
    assert tab.column("sources", "by") == ["falsify", "network"]
    assert tab.column("sources", "witnessed") == ["6", "0"]
    assert tab.column("sources", "refuted") == ["0", "3"]
    tab.close()


@pytest.mark.browser
def test_find_writes_its_page(chromium, tmp_path):
    net = write_network(tmp_path)
    page = tmp_path / "find.html"
    run = stablenet("find", net, "--domain", "box:-1:1", "--search", "off", "--page", page)
    assert run.returncode in {0, 3}, run.stderr
    tab = Tab(chromium, page.as_uri())
    assert tab.page.locator("#maps rect").count() == 12
    # Three inputs are no image: they are listed.
    assert tab.page.locator("#table-witnesses tbody tr").count() > 0
    tab.close()


def test_a_page_is_one_file_that_loads_nothing(sweep):
    with Store(sweep) as store:
        html = sweep_page(store)
    assert html.count("<script") == html.count("</script>") == 2
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "default-src 'none'" in html
    assert "{{" not in html


def test_figures_and_tables_as_files(sweep, tmp_path):
    with Store(sweep) as store:
        written = list(write_all(store, tmp_path))
    names = {path.rpartition("/")[2] for path in written}
    assert {"runs.csv", "solver-summary.tex", "solver-pairs.csv", "solver-profile.svg", "neurons-net0.svg"} <= names
    assert sum(name.startswith("solver-scatter") for name in names) == 3
    for path in (tmp_path / "figures").glob("*.svg"):
        root = parse(path.read_text())
        assert root.tag == f"{SVG}svg"
    curves = parse((tmp_path / "figures" / "solver-cactus.svg").read_text())
    titles = [title.text for title in curves.iter(f"{SVG}title")]
    assert {"highs", "scip", "cbc"} <= set(titles)


def test_a_sweep_without_rows_has_a_page(tmp_path):
    with Store(tmp_path, create=True) as store:
        assert "<html" in sweep_page(store)
        assert list(write_all(store, tmp_path))


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_a_report_says_where_its_verdicts_hold_and_draws_the_layers(chromium, tmp_path, width):
    report = small_report()
    tab = Tab(chromium, write(tmp_path, report_page(report)), width=width)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    words = tab.page.locator("#meaning").inner_text()
    domain = report["domain"]
    assert f"between {min(domain['lower']):g} and {max(domain['upper']):g}" in words
    assert "at least 0" in words
    kinds = {(n["layer"], n["verdict"]) for n in report["neurons"]}
    assert tab.page.locator("#layers rect").count() == len(kinds)
    heads = tab.page.locator("#table-seconds th").all_inner_texts()
    assert [re.sub(r" [▲▼]$", "", head) for head in heads] == list(report["seconds"])
    tab.close()
