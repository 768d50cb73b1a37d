"""The page of a run, in a real headless Chromium where there is one."""

import json
import os
import re
import shutil
import sys
import threading

import pytest
from PIL import Image
from running import TINY, script, train

from zorse.commands.report import main
from zorse.errors import UserError
from zorse.runs import sample_grid
from zorse.runs.charts import POINTS, charts
from zorse.runs.report_page import write_report
from zorse.runs.summary import in_words

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A run of 33 pairs with three sample grids and evaluations, one of them by evaluate.py, and an awkward name."""
    out = tmp_path_factory.mktemp("reported") / "a run <b>'s\" name"
    options = ["--epochs", "3", "--decay-epochs", "0", "--log-every", "3", "--sample-every", "12"]
    done = train("--data", shards, "--out", out, *TINY, *options, "--evaluate-every", "12", "--sample-images", "2")
    assert done.returncode == 0, done.stderr
    with (out / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": "2026-01-02T03:04:05+00:00", "pairs": 20, "text": "warning: </script> <i>"}))
        file.write('\n{"time": "half of a li')
    (out / "eval" / "zz-notes.json").write_text('{"note": 1}')
    (out / "samples" / "000000005.png").write_bytes((out / "samples" / "000000000.png").read_bytes()[:500])
    with (out / "sample_stats.jsonl").open("ab") as file:
        file.write(b'{"pairs": 3, "samples": {"a_to_b": {}\n\xff')
    (out / "quarantine-00000.jsonl").write_text('{"pair": 3}\n')
    return out


def report(*arguments, **how):
    return script("pipeline/report.py", *arguments, **how)


@pytest.fixture(scope="module")
def page(run):
    before = (run / "report.html").read_text()  # the trainer's
    done = report(run)
    assert done.returncode == 0, done.stderr
    text = (run / "report.html").read_text()
    assert len(text) >= len(before)
    assert "33 pairs</td>" in before and "finished" in before  # also what came last
    assert set(re.findall("""https?:[^"'` ]*""", text)) == {"http://www.w3.org/2000/svg"}  # a name, nothing to fetch
    assert "@import" not in text and "url(" not in text
    return run / "report.html"


def test_a_name_may_hold_bytes_that_are_no_text(run, tmp_path):
    odd = tmp_path / os.fsdecode(b"x \xff [b]")
    shutil.copytree(run, odd)
    done = report(odd)
    assert done.returncode == 0 and "[b]/report.html" in done.stdout, done.stderr
    assert "<h1>x \\udcff [b]</h1>" in (odd / "report.html").read_text()


def test_writers_of_one_page_do_not_tear_it(run):
    page = run / "report.html"
    write_report(run)
    whole, failed = page.read_bytes(), []

    def again():
        try:
            for _ in range(4):
                write_report(run)
        except Exception as error:
            failed.append(error)

    before = {path.name for path in run.iterdir()}
    writers = [threading.Thread(target=again) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert page.read_bytes() == whole
    assert not failed and {path.name for path in run.iterdir()} == before


def test_only_a_page_is_replaced(run, tmp_path):
    for name in ("notes.html", "mine.html"):
        (tmp_path / name).write_text("<html>my notes")
    for out in ("notes.html", "link.html"):
        (tmp_path / "link.html").unlink(missing_ok=True)
        (tmp_path / "link.html").symlink_to("mine.html")
        done = report(run, "--out", tmp_path / out)
        assert (
            done.returncode == 2 and f"{'notes' if out == 'notes.html' else 'mine'}.html: already exists" in done.stderr
        )
        assert done.stderr.count("\n") == 1 and "give another --out" in done.stderr
    assert (tmp_path / "notes.html").read_text() == (tmp_path / "mine.html").read_text() == "<html>my notes"
    for _ in range(2):
        assert report(run, "--out", tmp_path / "new" / "page.html").returncode == 0
    old = (tmp_path / "new" / "page.html").read_text().replace('<meta name="generator" content="Zorse">\n', "")
    (tmp_path / "old.html").write_text(old)  # as version 0.1 wrote them
    assert report(run, "--out", tmp_path / "old.html").returncode == 0
    assert (tmp_path / "old.html").read_text() != old

    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "report.html").write_text("<html>my notes")
    with pytest.raises(UserError, match="holds something else; give another --out"):
        write_report(copied)
    assert (copied / "report.html").read_text() == "<html>my notes"


def test_what_is_not_a_run(tmp_path):
    done = report(tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "holds no run" in done.stderr
    (tmp_path / "config.json").write_text('{"zorse": "0.2.0", "complete": true}')
    with pytest.raises(UserError, match=r"config\.json: holds no options of a run; .* another run directory"):
        write_report(tmp_path)


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
    assert len(find("#charts .plot")) >= 7
    assert len(find("#numbers b")) == 6
    fetched = "return performance.getEntriesByType('resource').map(one => one.name)"
    assert all(name.startswith("data:") for name in browser.execute_script(fetched))
    assert "sliced Wasserstein" in find("table")[0].text and "12 pairs" in find("table")[0].text
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


def measured(run, tmp_path, count):
    """The page of a run without pictures that has `count` lines in stats.jsonl; with 0, it has no other records either.

    To have values to look for, cycle_a counts the lines from 1. To have a gap, only the first two lines and the last
    one have identity_a.
    """
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("samples", "checkpoints"))
    last = json.loads((run / "stats.jsonl").read_text().splitlines()[-1])
    lines = [{**last, "pairs": 100 * i, "epoch": i, "cycle_a": i} for i in range(1, count + 1)]
    for line in lines[2:-1]:
        del line["identity_a"]
    (copy / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not count:
        shutil.rmtree(copy / "eval")
        (copy / "sample_stats.jsonl").unlink()
    page = write_report(copy)
    assert page.stat().st_size < 200_000
    return page


DRAWN = """
const [title, name] = arguments, chart = [...document.querySelectorAll(".chart")].find(
  one => one.querySelector("figcaption b").textContent === title);
const d = chart.querySelector(`[data-name="${name}"]`)?.getAttribute("d");
return d === undefined ? null : [d.match(/[ML]/g).length, d.match(/M/g).length]
"""
OVERLAPS = """
return [...document.querySelectorAll(".plot")].flatMap(plot => {
  const around = plot.getBoundingClientRect(), boxes = [...plot.querySelectorAll("text")].map(
    one => [one.textContent, one.getBoundingClientRect()]);
  return boxes.filter(([, box], i) => box.left < around.left || box.right > around.right || box.bottom > around.bottom
    || boxes.some(([, other], k) => k > i && box.left < other.right && other.left < box.right
      && box.top < other.bottom - 2 && other.top < box.bottom - 2)).map(([text]) => text);
})
"""


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_curves_have_all_their_points_at_any_width(browser, run, tmp_path, count):
    browser.get(measured(run, tmp_path, count).as_uri())
    for width in (360, 800, 1280):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(OVERLAPS) == []
        drawn = lambda *curve: browser.execute_script(DRAWN, *curve)  # noqa: E731
        if count:
            assert drawn("Adversarial losses", "generator a to b") == [count, 1]
            assert drawn("Cycle and identity losses", "identity a") == [min(count, 3), 1 if count < 4 else 2]
            assert drawn("sliced Wasserstein ↓", "b to a") == [4, 1]
    if not count:
        assert "Nothing has been measured yet." in browser.find_element("css selector", "main").text
        assert browser.find_elements("css selector", ".plot") == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_chart_is_read_and_its_curves_hidden(browser, run, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    browser.get(measured(run, tmp_path, 1000).as_uri())
    chart = browser.find_elements("css selector", ".chart")[1]
    find = lambda selector: chart.find_elements("css selector", selector)  # noqa: E731
    plot, reading, reset = (find(name)[0] for name in (".plot", ".reading", ".reset"))
    names = lambda: [each.get_attribute("data-name") for each in find("[data-name]")]  # noqa: E731
    at = lambda: int(reading.text.splitlines()[0].removesuffix(" pairs").replace(",", ""))  # noqa: E731
    heights = lambda: {text.text for text in find(".y")}  # noqa: E731
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    assert names() == ["cycle a", "cycle b", "identity a", "identity b"] and not reading.is_displayed()

    ActionChains(browser).move_to_element(plot).perform()
    pairs = at()
    assert 40_000 < pairs < 60_000
    lines = reading.text.splitlines()
    assert lines[lines.index("cycle a") + 1] == str(pairs // 100) and "identity a" not in lines  # in its gap
    ActionChains(browser).send_keys_to_element(plot, Keys.ARROW_RIGHT).perform()
    assert at() == pairs + 100
    ActionChains(browser).move_to_element(find("figcaption")[0]).perform()
    assert not reading.is_displayed()

    assert "1,000" in heights()
    find(".legend button")[0].click()
    assert names() == ["cycle b", "identity a", "identity b"] and "1,000" not in heights()
    find(".legend button")[0].click()
    ActionChains(browser).double_click(find(".legend button")[0]).perform()
    assert names() == ["cycle a"] and find(".legend button")[1].get_attribute("aria-pressed") == "false"

    assert not reset.is_displayed()
    ActionChains(browser).move_to_element(plot).click_and_hold().move_by_offset(50, 0).release().perform()
    assert all(40_000 < int(text.text.replace(",", "")) < 80_000 for text in find(".x")[:-1]) and "0" not in heights()
    reset.click()
    assert find(".x")[0].text == "0" and "0" in heights() and not reset.is_displayed()
    ActionChains(browser).double_click(find(".legend button")[0]).perform()
    assert len(names()) == 4


def test_long_curves_are_averaged_over_what_was_measured():
    lines = [{"pairs": i, "cycle_a": i, **({"identity_a": 2.0} if i % 3 else {})} for i in range(1, 2 * POINTS + 2)]
    lines[-1]["cycle_b"] = float("nan")
    (chart,) = charts(lines, [], [])
    cycle, identity = chart["curves"]  # and no curve of what is never a number
    assert len(chart["x"]) == len(cycle["y"]) == 667 and cycle["y"][:2] == [2, 5] and set(identity["y"]) == {2.0}


@pytest.mark.parametrize(
    ("name", "content"),
    [("stats.jsonl", '{"pairs": 200}\n'), ("events.jsonl", '{"pairs": 3}\n'), ("eval/000000012.json", '{"pairs": 12}')],
)
def test_damaged_records_are_left_out_and_told(run, tmp_path, name, content):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).write_text(content)
    done = report(copy)
    assert done.returncode == 0 and f"warning: {copy / name}: " in done.stderr, done.stderr
    assert all(line.endswith("skipped") for line in done.stderr.splitlines())


def test_a_configuration_of_something_else_is_refused(run, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "config.json").write_text('{"images": 3}')
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


def test_warnings_of_the_last_start_stand_on_top_and_how_the_run_was_made_is_told(run, page, tmp_path):
    text = page.read_text()
    assert text.index('class="alarm"') < text.index("<h2>") and "&lt;/script&gt; &lt;i&gt;</p>" in text
    versions = r"zorse 0\.1\.0( at commit [0-9a-f]+(-dirty)?)?, Python 3\.\d+\.\d+, torch [\d.]+"
    assert re.search(f"made by train.py --data .*{versions}.*: 1 process on CPU", text)
    assert "sliced Wasserstein ↓" in text and "round trip, PSNR in dB ↑" in text
    copied = shutil.copytree(run, tmp_path / "copy")
    with (copied / "events.jsonl").open("a") as file:
        file.write(f"\n{json.dumps({'time': '2026-01-02T03:04:06+00:00', 'pairs': 20, 'text': 'resuming x'})}\n")
        file.write(f"{json.dumps({'time': '2026-01-02T03:04:07+00:00', 'pairs': 24, 'text': 'stopped'})}\n")
    report(copied)
    found = re.findall('class="alarm">(.*?)</p>', (copied / "report.html").read_text())
    assert found == ["stopped by its warnings"]


def test_runs_side_by_side(browser, run, shards, tmp_path):
    """Also of other lengths and options, of one name, and without any record yet."""
    run, other, empty = shutil.copytree(run, tmp_path / "one" / "x"), tmp_path / "other" / "x", tmp_path / "empty"
    options = ["--epochs", "1", "--decay-epochs", "0", "--log-every", "4", "--lr", "1e-3", "--identity-weight", "0"]
    done = train("--data", shards, "--out", other, *TINY, *options, "--sample-images", "2")
    assert done.returncode == 0, done.stderr
    empty.mkdir()
    shutil.copy(run / "config.json", empty)
    done = report(run, other, empty, cwd=tmp_path)
    page = tmp_path / "comparison.html"
    assert done.returncode == 0 and done.stdout == "written to comparison.html\n", done.stderr
    browser.get(page.as_uri())
    find = lambda selector: browser.find_elements("css selector", selector)  # noqa: E731
    runs, differing, *_ = find("table")
    assert "11" in runs.text and "33" in runs.text and str(other) in runs.text
    rows = dict(line.rsplit(" ", 2)[:2] for line in differing.text.splitlines()[1:])
    assert rows["--lr 0.0002"] == "0.001" and rows["--identity-weight 0.5"] == "0.0" and "--out" not in str(rows), rows
    assert len(find("img")) == 2
    # A curve of each run that has any, on one axis; no identity loss in the other.
    assert browser.execute_script(DRAWN, "Adversarial losses: generator a to b", str(run)) == [11, 1]
    assert browser.execute_script(DRAWN, "Adversarial losses: generator a to b", str(other)) == [3, 1]
    legends = [each.text for each in find(".chart")]
    assert any(str(run) in text and str(other) not in text for text in legends if "identity a" in text)
    assert any("untranslated, a to b" in text for text in legends if text.startswith("sliced Wasserstein"))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    for width in (420, 1280):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    page.write_text("<html>my notes")
    assert report(run, other, cwd=tmp_path).returncode == 2 and page.read_text() == "<html>my notes"


def test_metrics_in_words():
    assert in_words("kid_efficientnet_lite0") == "KID efficientnet_lite0 ↓" and in_words("cycle_psnr")[-1] == "↑"
    assert in_words("share_of_class_340") == "share taken for class 340 ↑" and in_words("kid_x_std") == "deviation"
