"""Translation of files and folders, at their own sizes."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, command, train
from PIL import Image

from data_prep.images import read_as
from pipeline import checkpoint
from pipeline.translate import Translator


@pytest.fixture(scope="module")
def model(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    done = train(*TINY, "--data", shards, "--out", out, "--epochs", "0.2", "--decay-epochs", "0")
    assert done.returncode == 0, done.stderr
    return out


def cli(*arguments):
    return command([sys.executable, ROOT / "pipeline" / "translate.py", *arguments])


def noise(width, height, mode="RGB"):
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8), mode)


@pytest.mark.parametrize("size", [(64, 64), (61, 47), (33, 90), (5, 3), (1, 1), (16, 200)])
def test_any_size_keeps_its_size(model, size):
    assert Translator(model, "a2b")(noise(*size)).size == size


def test_a_multiple_of_four_is_the_generator_itself(model):
    translator = Translator(model, "b2a")
    image = noise(32, 48)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = ((translator.generator(pixels)[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0)
    assert np.array_equal(np.asarray(translator(image)), expected.byte().numpy())


def test_directions_are_the_two_generators(model):
    image = noise(32, 32)
    one, other = (np.asarray(Translator(model, way)(image)) for way in ("a2b", "b2a"))
    assert not np.array_equal(one, other)


def test_folder_keeps_names_and_tree(model, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deeper").mkdir(parents=True)
    noise(40, 30).save(source / "x.png")
    noise(30, 40, "L").save(source / "deeper" / "grey.jpg")
    noise(20, 20, "RGBA").save(source / "alpha.PNG")
    (source / "notes.txt").write_text("not an image")
    done = cli(model, source, out, "--direction", "a2b")
    assert done.returncode == 0, done.stderr
    deep = Image.fromarray(np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16))
    deep.save(source / "deep.png")
    done = cli(model, source, source / "out", "--direction", "a2b")
    assert done.returncode == 0 and "4 of 4" in cli(model, source, source / "out", "--direction", "a2b").stdout
    assert read_as((source / "deep.png").read_bytes(), "rgb").getextrema() == (0, 255)  # scaled, not cut off
    assert np.asarray(read_as((source / "alpha.PNG").read_bytes(), "rgb")).mean() > 160  # on white
    written = {str(path.relative_to(out)): Image.open(path).size for path in out.rglob("*.*")}
    assert written == {"x.png": (40, 30), "deeper/grey.jpg": (30, 40), "alpha.PNG": (20, 20)}


def test_one_file_from_one_checkpoint(model, tmp_path):
    noise(24, 24).save(tmp_path / "x.png")
    path = checkpoint.newest(model)
    assert cli(path, tmp_path / "x.png", tmp_path / "y.jpg", "--direction", "b2a").returncode == 0
    assert Image.open(tmp_path / "y.jpg").format == "JPEG"
    (tmp_path / "folder").mkdir()
    assert cli(model, tmp_path / "x.png", tmp_path / "folder", "--direction", "b2a").returncode == 0
    assert (tmp_path / "folder" / "x.png").exists()


def test_camera_rotation_is_applied(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    noise(40, 20).save(tmp_path / "x.jpg", exif=exif)
    assert cli(model, tmp_path / "x.jpg", tmp_path / "y.png", "--direction", "a2b").returncode == 0
    assert Image.open(tmp_path / "y.png").size == (20, 40)


def test_unreadable_file_is_named_and_the_others_are_done(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("<html>")
    noise(8, 8).save(tmp_path / "in" / "c.png")
    (tmp_path / "in" / "c.png").write_bytes((tmp_path / "in" / "c.png").read_bytes()[:60])
    noise(1, 17000).save(tmp_path / "in" / "tall.png")  # WebP cannot hold it
    (tmp_path / "in" / "tall.png").rename(tmp_path / "in" / "tall.webp")
    noise(20, 20).save(tmp_path / "in" / "b.jpg")
    done = cli(model, tmp_path / "in", tmp_path / "out", "--direction", "a2b")
    assert done.returncode == 2 and "a.jpg" in done.stderr and "Traceback" not in done.stderr
    assert "3 of 4 files failed" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nowhere", "x.png", "y.png", "--direction", "a2b"), "no checkpoint"),
        (("MODEL", "nowhere.png", "y.png", "--direction", "a2b"), "no such file"),
        (("MODEL", "x.png", "x.png", "--direction", "a2b"), "overwrite"),
        (("MODEL", "x.png", "y.xyz", "--direction", "a2b"), ".png"),
        (("MODEL", "empty", "out", "--direction", "a2b"), "no images"),
        (("MODEL", "x.png", "y.png", "--direction", "a2b", "--device", "quantum"), "quantum"),
    ],
)
def test_bad_input_in_one_line(model, tmp_path, arguments, word):
    noise(20, 20).save(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    paths = [model if part == "MODEL" else tmp_path / part if i < 3 else part for i, part in enumerate(arguments)]
    done = cli(*paths)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ") and word in lines[0], done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "x.png"]
