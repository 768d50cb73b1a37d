"""The demo page, in a real headless Chromium where there is one."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from running import ROOT, script

from zorse.inference.translator import Translator

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
gradio = pytest.importorskip("gradio")


def start(*arguments):
    program = [sys.executable, ROOT / "pipeline" / "app.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [str(part) for part in program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def address(trained):
    server = start(trained, "--class-a", "horse", "--class-b", "zebra", "--port", "0")
    told = server.stdout.readline()
    assert "Ctrl-C ends it" in told, server.stderr.read()
    yield re.search(r"http://\S+", told)[0]
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0
    assert "Traceback" not in server.stderr.read()


@pytest.fixture
def browser(address, tmp_path):
    if not (BROWSER and DRIVER):
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    size = f"--user-data-dir={tmp_path / 'profile'}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900", size):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(address)
    yield driver
    driver.quit()


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(Exception):
            if found := condition():
                return found
        time.sleep(0.2)
    raise AssertionError("the page did not come to it")


def shown(browser):
    """What the two pictures of the slider hold: uint8 [H, W, 3] each, once both are there."""
    script = """
      const done = arguments[0], pictures = [...document.querySelectorAll('#both img')];
      if (pictures.length < 2 || pictures.some(p => !p.complete || !p.naturalWidth)) return done(null);
      done(pictures.map(p => {
        const canvas = document.createElement('canvas');
        canvas.width = p.naturalWidth; canvas.height = p.naturalHeight;
        canvas.getContext('2d').drawImage(p, 0, 0);
        return [canvas.width, [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]];
      }));"""
    found = browser.execute_async_script(script)
    return found and [np.array(data, np.uint8).reshape(-1, width, 4)[..., :3] for width, data in found]


def test_an_image_is_dropped_and_translated_both_ways(browser, trained, tmp_path):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (48, 70, 3), dtype=np.uint8))
    image.save(tmp_path / "horse.png")
    given = until(lambda: browser.find_element("css selector", "#given input[type=file]"))
    given.send_keys(str(tmp_path / "horse.png"))
    for direction, title in (("a2b", "horse to zebra"), ("b2a", "zebra to horse")):
        until(lambda title=title: browser.find_element("css selector", f"#way input[value='{title}']")).click()
        until(lambda title=title: title in browser.find_element("css selector", "#message").text)
        before, after = until(lambda: shown(browser))
        expected = np.asarray(Translator(trained, direction)(image))
        assert np.array_equal(before, np.asarray(image))
        assert np.abs(after.astype(int) - expected).max() <= 1
    if folder := os.environ.get("ZORSE_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/app.png")


def test_what_is_no_image_is_told_on_the_page(browser, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    given = until(lambda: browser.find_element("css selector", "#given input[type=file]"))
    given.send_keys(str(tmp_path / "broken.png"))
    until(lambda: "cannot be read" in browser.find_element("css selector", "body").text)


@pytest.mark.parametrize(
    ("arguments", "words"), [(("nowhere",), "no checkpoint"), (("MODEL", "--host", "256.0.0.1"), "--host")]
)
def test_mistakes_in_one_line(trained, arguments, words):
    done = script("pipeline/app.py", *(trained if part == "MODEL" else part for part in arguments))
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], (
        done.stderr
    )
