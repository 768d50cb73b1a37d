"""The page of a run, in a real headless Chromium where there is one."""

import json
import shutil
import sys

import pytest
from PIL import Image
from running import ROOT, TINY, command, train

from zorse.commands.report import main
from zorse.runs import sample_grid

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A run of 33 pairs with three sample grids and evaluations, one of them by evaluate.py, and an awkward name."""
    out = tmp_path_factory.mktemp("reported") / "a run <b>'s\" name"
    options = ["--epochs", "3", "--decay-epochs", "0", "--status-every", "3", "--sample-every", "12"]
    done = train("--data", shards, "--out", out, *TINY, *options, "--evaluate-every", "12", "--sample-images", "2")
    assert done.returncode == 0, done.stderr
    with (out / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": "2026-01-02T03:04:05+00:00", "pairs": 20, "text": "warning: </script> <i>"}))
        file.write('\n{"time": "half of a li')
    (out / "eval" / "zz-notes.json").write_text('{"note": 1}')
    (out / "samples" / "000000005.png").write_bytes((out / "samples" / "000000000.png").read_bytes()[:500])
    with (out / "looks.jsonl").open("ab") as file:
        file.write(b'{"pairs": 3, "looks": {"a_to_b": {}\n\xff')
    (out / "quarantine-00000.jsonl").write_text('{"pair": 3}\n')
    return out


def report(*arguments):
    return command([sys.executable, ROOT / "pipeline" / "report.py", *arguments])


@pytest.fixture(scope="module")
def page(run):
    before = (run / "report.html").read_text()  # the trainer's
    done = report(run)
    assert done.returncode == 0, done.stderr
    text = (run / "report.html").read_text()
    assert len(text) >= len(before) > 4_000_000
    assert "33 pairs</td>" in before and "finished" in before  # also what came last
    for outside in ('src="http', "src='http", 'href="http', "@import"):
        assert outside not in text.replace(plotly(), "")
    return run / "report.html"


def plotly():
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def test_what_is_not_a_run(tmp_path):
    done = report(tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no run of this version here" in done.stderr


@pytest.fixture
def browser(page, tmp_path):
    if not (BROWSER and DRIVER):
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", f"user-data-dir={tmp_path}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    opened.get(page.as_uri())
    yield opened
    opened.quit()


PIXEL = "const c = document.getElementById(arguments[0]); return [...c.getContext('2d').getImageData(5, 5, 9, 9).data]"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_the_page_in_a_browser(browser, run, width, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    find = lambda selector: browser.find_elements("css selector", selector)  # noqa: E731
    assert browser.title == run.name and find("h1")[0].text == run.name
    assert len(find(".js-plotly-plot .main-svg")) >= 7
    assert "sliced_wasserstein" in find("table")[0].text and "12 pairs" in find("table")[0].text
    assert "warning: </script> <i>" in find("tr.warning")[0].text  # as text
    assert "1 training images could not be read" in find("main")[0].text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, dark.strip("rgb()").split(","))) < 200) == (scheme == "dark")

    slider = find("#time")[0]
    assert find("#when")[0].text == "after 33 pairs"
    at_the_end = browser.execute_script(PIXEL, "after")
    before = browser.execute_script(PIXEL, "before")
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_async_script(f"document.getElementById('grid').onload = arguments[2]; {move}", slider, 0)
    assert find("#when")[0].text == "after 0 pairs"
    assert browser.execute_script(PIXEL, "after") != at_the_end
    assert browser.execute_script(PIXEL, "before") == before  # the same test image from first to last

    browser.execute_script(move, find("#split")[0], 20)
    assert "20%" in find("#after")[0].get_attribute("style")
    grid = find("#grid")[0]
    offset = {"x": grid.size["width"] // 4, "y": grid.size["height"] // 4}
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element_with_offset(grid, offset["x"], offset["y"]).click().perform()
    assert "b to a, image 2" in find("#which")[0].text
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("stats.jsonl", '{"pairs": 200}\n'), ("events.jsonl", '{"pairs": 3}\n'), ("config.json", '{"images": 3}')],
)
def test_records_of_something_else_are_told(run, tmp_path, name, content, monkeypatch, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).write_text(content)
    refused(monkeypatch, capsys, copy)


def test_a_grid_that_cannot_be_read_is_left_out_of_the_strip(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    widths = []
    for _ in range(2):  # with it and without
        sample_grid.save_strip(copy, (32, 32))
        widths.append(Image.open(copy / "samples" / "strip.png").width)
        (copy / "samples" / "000000005.png").unlink(missing_ok=True)
    assert widths[0] == widths[1]


@pytest.mark.parametrize("out", [".", "/proc/x.html"])
def test_where_no_page_can_be_written(run, out, monkeypatch, capsys):
    assert ".tmp" not in refused(monkeypatch, capsys, run, "--out", out)


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1
    return told
