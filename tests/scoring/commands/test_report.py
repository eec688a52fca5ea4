"""Report: complete in one file, figures equal to score's, sound in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from scoring.drawing.report_charts import _parts
from scoring.drawing.svg import Line, curve_chart, ticks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Collects the figures, the tags and every address of a page."""

    def __init__(self, text):
        super().__init__()
        self.figures, self.tags, self.addresses, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "data", "action")]
        if "data-figure" in facts:
            self.figures.append((facts["data-figure"], facts.get("data-value")))
        if tag not in ("meta", "link", "line", "rect", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes something else"


def write_report(cli, folder, path):
    status, out, _ = cli("report", folder, "--out", path)
    assert status == 0
    assert str(path) in out
    return path.read_text()


def test_figures_equal_score_json(tmp_path, published, cli):
    folder = published / "NVIDIA"
    page = Page(write_report(cli, folder, tmp_path / "r.html"))
    results = json.loads(cli("score", folder, "--json")[1])["results"]
    for key in ("minutes", "spread", "fastest", "slowest", "runs_found", "mean_progress"):
        shown = [json.loads(value) for name, value in page.figures if name == key]
        assert shown == [result[key] for result in results]
    ends = [value.split() for name, value in page.figures if name == "interval"]
    expected = [[str(end) for end in result["interval"]] for result in results]
    assert ends == expected
    words = {True: "pass", False: "FAIL"}
    for flavour in ("then", "now"):
        shown = [value for name, value in page.figures if name == f"rcp-{flavour}"]
        assert shown == [words[r["rcp"][flavour]["passed"]] for r in results if r["rcp"]]


def test_the_page_needs_nothing_else(tmp_path, published, cli):
    text = write_report(cli, published, tmp_path / "r.html")
    page = Page(text)
    assert page.addresses == ["data:,"]
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("svg") > 20
    assert page.open == []
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_own_runs_show_where_the_time_went_and_the_verdict(tmp_path, make, cli):
    for number in range(1, 6):
        make.run(tmp_path, number=number, demo=True, division="open")
    text = write_report(cli, tmp_path, tmp_path / "r.html")
    assert "demo data: generated" in text
    assert "<title>train: 590.00</title>" in text
    assert "Test CPU" in text


def test_a_part_of_the_time_has_one_colour_whatever_else_is_known(tmp_path, make, published, cli):
    make.run(tmp_path / "a", number=1)
    for folder in (tmp_path / "a", published / "NVIDIA/results/dgxa100_ngc21.05_mxnet/ssd"):
        text = write_report(cli, folder, tmp_path / "r.html")
        assert set(re.findall(r'class="(part\d)"[^>]*><title>train', text)) == {"part2"}
        assert '<span class="key key2"></span>train' in text
        assert "data wait" not in text


def test_an_open_result_shows_its_final_quality(tmp_path, published, cli):
    page = Page(write_report(cli, published / "Graphcore", tmp_path / "r.html"))
    (shown,) = [float(value) for name, value in page.figures if name == "quality-mlm_accuracy"]
    (result,) = json.loads(cli("score", published / "Graphcore", "--json")[1])["results"]
    assert shown == result["quality_mean"]["mlm_accuracy"] > 0.72


def test_waiting_is_shown_beside_training_and_not_twice():
    record = {"init": 2.0, "train": 10.0, "data_wait": 3.0, "eval": 1.0, "total": 11.0}
    run = SimpleNamespace(fact=lambda name: record)
    assert _parts(run) == {"init": 2.0, "train": 7.0, "data_wait": 3.0, "eval": 1.0}


def test_names_from_logs_are_escaped(tmp_path, make, cli):
    lines = make.ssd(submission_platform="<script>alert(1)</script>")
    make.write(tmp_path / "a.log", lines)
    text = write_report(cli, tmp_path, tmp_path / "r.html")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_folder_of_broken_logs_still_gives_a_page(tmp_path, make, cli):
    make.write(tmp_path / "org/results/box/ssd/result_0.txt", make.ssd()[:-1])
    (tmp_path / "org/results/box/ssd/result_1.txt").touch()
    text = write_report(cli, tmp_path, tmp_path / "r.html")
    assert "invalid" in text
    assert "no run_stop" in text


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.82, 0.92) == [0.82, 0.84, 0.86, 0.88, 0.9, 0.92]


def test_a_curve_of_one_point_can_be_drawn():
    svg = curve_chart([Line("a", [(0.0, 1.0)])], title="t", x_label="x", y_label="y", target=1.0)
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_real_browser_shows_it_without_errors_or_requests(tmp_path, published, cli, width):
    path = tmp_path / "r.html"
    write_report(cli, published, path)
    # A window cannot be made as narrow as a phone; a frame can.
    probe = tmp_path / "probe.html"
    probe.write_text(
        '<iframe id="f" src="r.html" style="border:0;height:900px;width:'
        f'{width}px"></iframe><script>'
        'onload = () => { const d = document.getElementById("f").contentDocument.documentElement;'
        'document.title = "widths " + d.scrollWidth + " " + d.clientWidth; }</script>'
    )
    log = tmp_path / "net.json"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--disable-background-networking", "--disable-component-update"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr", "--log-level=0"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={log}",
        f"file://{probe}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    scroll, client = re.search(r"<title>widths (\d+) (\d+)</title>", done.stdout).groups()
    assert int(scroll) <= int(client) <= width, "the page scrolls sideways"
    assert "CONSOLE" not in done.stderr
    starts = re.findall(r'"url":"(https?://[^"]+)"', log.read_text())
    ours = [url for url in starts if not re.search(r"google|gvt1|chromium", url)]
    assert ours == []


def test_too_few_runs_show_the_same_provisional_mean_as_the_score(tmp_path, make, cli):
    make.run(tmp_path, number=1, seconds=600)
    text = write_report(cli, tmp_path, tmp_path / "r.html")
    assert ">10.00 (1 of 5 runs, provisional)</dd>" in text


def test_several_results_begin_with_a_table_of_all(tmp_path, published, cli):
    text = write_report(cli, published / "NVIDIA", tmp_path / "r.html")
    overview, *sections = text.split("<section>")[1:]
    assert overview.count("<tr>") == 1 + 7
    assert '<td class="number">28.77</td><td>valid</td>' in overview
    assert len(sections) == 7
    assert sum("8.521 minutes = 5.863 M samples / 11,562 per second" in s for s in sections) == 1
    assert all("<title>train: " in section for section in sections)


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e308", "1e-320"])
def test_an_evaluation_without_bounds_is_left_out_of_the_curves(value, tmp_path, make, cli):
    lines = make.ssd(evals=((40, 0.15), (45, 0.125), (50, 0.24)))
    lines = [line.replace("0.125", value) for line in lines]
    make.write(
        tmp_path / "a.log",
        [line.replace('"epoch_num": 40', '"epoch_num": 1e999') for line in lines],
    )
    text = write_report(cli, tmp_path, tmp_path / "r.html")
    drawing = text[text.index("<svg") :]
    assert "nan" not in drawing.replace("nan</", "").lower() or value == "NaN"
    assert "inf" not in re.sub(r"<[^>]*title[^>]*>.*?<", "<", drawing).lower()


def test_seconds_of_a_record_without_bounds_are_left_out(tmp_path, make, cli):
    record = make.run(tmp_path, number=1) / "run.json"
    facts = json.loads(record.read_text())
    facts["seconds"] = {"train": float("inf"), "eval": 5.0, "total": 6.0}
    record.write_text(json.dumps(facts))
    assert "eval: 5.00" in write_report(cli, tmp_path, tmp_path / "r.html")
