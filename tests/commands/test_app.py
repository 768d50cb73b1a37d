"""The demo page, in a real headless Chromium where there is one."""

import contextlib
import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
from PIL import Image
from running import ROOT, script

from zorse.inference import private_folder as private_folders
from zorse.inference import web_page
from zorse.inference.examples import example_images
from zorse.inference.private_folder import private_folder
from zorse.inference.translator import Translator
from zorse.inference.web_page import Refused

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
gradio, gradio_client = pytest.importorskip("gradio"), pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")


def start(*arguments, **environment):
    program = [sys.executable, ROOT / "pipeline" / "app.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
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


def test_a_visitor_without_an_image_takes_one_of_the_run(browser, trained):
    offered = until(lambda: browser.find_elements("css selector", "#examples button"))
    pictures = browser.find_elements("css selector", "#examples img")
    until(lambda: all(int(picture.get_attribute("naturalWidth")) for picture in pictures))
    offered[-1].click()
    until(lambda: "zebra to horse" in browser.find_element("css selector", "#message").text)
    _, after = until(lambda: shown(browser))
    (_, content) = example_images(trained, 4)["b"][-1]
    expected = np.asarray(Translator(trained, "b2a")(Image.open(io.BytesIO(content)).convert("RGB")))
    assert np.abs(after.astype(int) - expected).max() <= 1
    if folder := os.environ.get("ZORSE_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/app-examples.png")


def test_a_program_translates_by_the_endpoint(address, trained, tmp_path):
    client = gradio_client.Client(address, verbose=False, download_files=tmp_path)
    file = noise(tmp_path, 40, 56)
    made = client.predict(gradio_client.handle_file(file), "zebra to horse", api_name="/translate")
    expected = np.asarray(Translator(trained, "b2a")(Image.open(file)))
    assert np.abs(np.asarray(Image.open(made)).astype(int) - expected).max() <= 1
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(Exception, match="this image cannot be read"):
        client.predict(gradio_client.handle_file(tmp_path / "broken.png"), "zebra to horse", api_name="/translate")


def test_what_is_no_image_is_told_on_the_page(browser, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    given = until(lambda: browser.find_element("css selector", "#given input[type=file]"))
    given.send_keys(str(tmp_path / "broken.png"))
    until(lambda: "cannot be read" in browser.find_element("css selector", "body").text)


def noise(folder, height, width):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    image.save(folder / f"{height}.png")
    return folder / f"{height}.png"


def test_too_many_pixels_are_told_before_they_are_decoded(trained, tmp_path, monkeypatch):
    desk = web_page.Desk({"way": Translator(trained)}, 10_000)
    assert desk.translate(noise(tmp_path, 100, 90), "way")[1].size == (90, 100)
    Image.new("L", (13_000, 13_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(web_page, "read_as", None)
    for path, size in ((noise(tmp_path, 101, 100), "100 x 101"), (tmp_path / "bomb.png", "13000 x 13000")):
        with pytest.raises(Refused, match=f"this image has {size} pixels, and 0.01 million pixels are allowed; give a"):
            desk.translate(path, "way")


def test_a_large_image_makes_nobody_wait(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(web_page, "LARGE", 10_000)
    translator, begun, over = Translator(trained), threading.Event(), threading.Event()
    small, large = noise(tmp_path, 20, 20), noise(tmp_path, 120, 120)

    def slow(image):
        if image.height == 120:
            begun.set()
            over.wait(30)
        return translator(image)

    slow.modes = translator.modes
    desk = web_page.Desk({"way": slow}, 10**6)
    first = threading.Thread(target=desk.translate, args=(large, "way"))
    first.start()
    assert begun.wait(30)
    assert desk.translate(small, "way")[1].size == (20, 20)
    with pytest.raises(Refused, match="a large image is being translated; try again"):
        desk.translate(large, "way")
    over.set()
    first.join()
    assert desk.translate(large, "way")[1].size == (120, 120)
    with pytest.raises(Refused, match="deleted after 10 minutes"):
        desk.translate(tmp_path / "gone.png", "way")


def test_what_visitors_send_is_private_and_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "elsewhere")
    monkeypatch.setattr(private_folders, "SWEEP_SECONDS", 0.05)
    with private_folder() as (folder, own):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and os.environ["GRADIO_TEMP_DIR"] == str(folder)
        for age in (1000, 300, 200, 100):
            (folder / str(age)).mkdir()
            (folder / str(age) / "x.png").write_bytes(bytes(100))
            os.utime(folder / str(age) / "x.png", (time.time() - age,) * 2)
        until(lambda: not (folder / "1000" / "x.png").exists(), 5)
        own.add(folder / "200" / "x.png")
        os.utime(folder / "200" / "x.png", (0, 0))
        monkeypatch.setattr(private_folders, "KEPT_BYTES", 150)
        until(lambda: not (folder / "300" / "x.png").exists(), 5)
        time.sleep(0.2)
        assert sorted(path.parent.name for path in folder.rglob("x.png")) == ["100", "200"]
        (killed := subprocess.Popen(["true"])).wait()
        other = tmp_path / folder.name.replace(f".{os.getpid()}-", f".{killed.pid}-")
        other.mkdir()
    assert list(tmp_path.iterdir()) == [other]
    with private_folder():
        assert not other.exists()


def test_the_server_keeps_nothing_and_takes_no_file_without_end(trained, tmp_path):
    server = start(trained, "--port", "0", TMPDIR=str(tmp_path))
    address = re.search(r"http://[^/ ]+", server.stdout.readline())[0]
    folder = next(tmp_path.glob(".zorse-app-*"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for size, taken in ((1000, True), (web_page.LARGEST_FILE + 1, False)):
        (tmp_path / f"{size}.png").write_bytes(bytes(size))
        with (tmp_path / f"{size}.png").open("rb") as file:
            answer = httpx.post(f"{address}/gradio_api/upload", files={"files": file}, timeout=30)
        assert (answer.status_code == 200) == taken and ("exceeded maximum" in answer.text) != taken
        assert bool(list(folder.rglob(f"{size}.png"))) == taken
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0 and not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "no checkpoint"),
        (("MODEL", "--host", "256.0.0.1"), "--host"),
        (("MODEL", "--max-megapixels", "0"), "--max-megapixels 0"),
        (("MODEL", "--examples", "-1"), "--examples -1"),
    ],
)
def test_mistakes_in_one_line(trained, arguments, words):
    done = script("pipeline/app.py", *(trained if part == "MODEL" else part for part in arguments))
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0], (
        done.stderr
    )
