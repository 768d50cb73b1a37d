"""Domains whose images are not alike: 16-bit grey on one side, colour with transparency on the other."""

import numpy as np
import pytest
from PIL import Image
from running import TINY, script, shard, train
from runs import assert_close, final, losses, refused

EVERY = [part for what in ("status", "evaluate", "sample", "checkpoint") for part in (f"--{what}-every", "2")]
OPTIONS = ["--identity-weight", "0", *EVERY]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes") / "images"
    rng = np.random.default_rng(0)
    for split in ("trainA", "testA", "trainB", "testB"):
        (folder / split).mkdir(parents=True)
        for number in range(4):
            deep = rng.integers(0, 65536, (40, 40), dtype=np.uint16)
            four = rng.integers(0, 256, (40, 40, 4), dtype=np.uint8)
            Image.fromarray(deep if split.endswith("A") else four).save(folder / split / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def shards(images):
    out = images.with_name("shards")
    shard(images, out, "--mode-a", "grey16", "--mode-b", "rgba")
    return out


@pytest.mark.slow
def test_they_train_resume_and_translate(images, shards, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    of = [*TINY, "--data", shards, *OPTIONS, "--batch", "2", "--decay-epochs", "0"]
    assert train(*of, "--out", whole, "--epochs", "2").returncode == 0
    assert train(*of, "--out", cut, "--epochs", "1").returncode == 0
    again = train(*of, "--out", cut, "--epochs", "2", "--allow-change", "epochs", ranks=2)
    assert again.returncode == 0, again.stderr
    assert [pairs for pairs, _ in losses(cut)] == [pairs for pairs, _ in losses(whole)]
    assert_close(final(cut), final(whole), 1e-4)
    assert {path.stem for path in (whole / "eval").iterdir()} == {f"{pairs:09d}" for pairs in (0, 2, 4, 6, 8)}
    assert Image.open(whole / "samples" / "000000008.png").mode == "RGB"

    for way, mode, levels in (("a2b", "RGBA", 50), ("b2a", "I;16", 300)):
        source, out = images / f"test{way[0].upper()}", tmp_path / way
        done = script("pipeline/translate.py", whole, source, out, "--direction", way)
        assert done.returncode == 0, done.stderr
        made = [Image.open(path) for path in sorted(out.iterdir())]
        assert [(picture.mode, picture.size) for picture in made] == [(mode, (40, 40))] * 4
        assert len(np.unique(np.asarray(made[0]))) > levels

    cli, alike = ["pipeline/translate.py", whole], tmp_path / "alike"
    alike.mkdir()
    for name in ("x.png", "x.jpg"):
        Image.new("L", (40, 40)).save(alike / name)
    refused(script(*cli, alike, tmp_path / "out", "--direction", "a2b"), "would both become")
    before = (alike / "x.png").read_bytes()
    onto = script(*cli, alike / "x.png", alike / "x.jpg", "--direction", "a2b")  # would become x.png
    refused(onto, "would overwrite a source")
    assert (alike / "x.png").read_bytes() == before and not (tmp_path / "out").exists()


def test_identity_needs_equal_channels(shards, tmp_path):
    refused(train(*TINY, "--data", shards, "--out", tmp_path / "run"), "grey16", "rgba", "--identity-weight 0")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_same_images_in_another_mode_are_other_data(images, shards, tmp_path):
    options = [*TINY, *OPTIONS, "--out", tmp_path / "run", "--epochs", "1", "--decay-epochs", "0"]
    assert train(*options, "--data", shards).returncode == 0
    shard(images, tmp_path / "rgb", "--mode-b", "rgba")
    refused(train(*options, "--data", tmp_path / "rgb"), "was made with another data and modes")
