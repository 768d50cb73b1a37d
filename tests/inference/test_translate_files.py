"""Translation of files, folders and shards as it is used: what is written where, and what is told of what fails."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_files import Tiff, png, tiff
from pictures import PHOTO, RAMP, animation, encode, srgb_profile, swapped_profile, transparent_palette, with_hole
from PIL import Image, ImageOps
from running import ROOT, TINY, script, train
from safetensors.torch import save_file

from zorse import Translator, progress_bars
from zorse.checkpoints import format as checkpoint
from zorse.commands.translate import main, run
from zorse.cyclegan.resnet import Generator
from zorse.errors import TransientError, UserError
from zorse.inference import image_files, translate_files
from zorse.inference.options import Options
from zorse_prep.format import CHANNELS
from zorse_prep.images import BadImage, ImagePolicy, prepare, read_as

SCRIPT = ROOT / "pipeline" / "translate.py"


@pytest.fixture(scope="module")
def model(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    done = train(*TINY, "--data", shards, "--out", out, "--epochs", "0.2", "--decay-epochs", "0")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def of_modes(model, tmp_path_factory):
    """of_modes("grey16", "rgba") -> a checkpoint of untrained networks between such domains."""

    def make(a, b):
        path = tmp_path_factory.mktemp("modes") / "checkpoint"
        shutil.copytree(checkpoint.latest_valid(model), path)
        tensors = {
            f"generators.{way}.{name}": value
            for way, modes in (("a_to_b", (a, b)), ("b_to_a", (b, a)))
            for name, value in Generator(4, 1, *(CHANNELS[mode] for mode in modes)).state_dict().items()
        }
        save_file(tensors, path / checkpoint.NETWORKS)
        state = json.loads((path / checkpoint.STATE).read_text())
        state["constants"]["modes"] = {"a": a, "b": b}
        (path / checkpoint.STATE).write_text(json.dumps(state))
        manifest = checkpoint.read_manifest(path)
        for name in (checkpoint.NETWORKS, checkpoint.STATE):
            manifest[name] |= checkpoint.describe(path / name)
        (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
        return path

    return make


def cli(*arguments, **environment):
    return script("pipeline/translate.py", *arguments, **environment)


def translate(model, *paths, direction="a2b", **options):
    """The command, in this process."""
    run(Options(Path(model), tuple(map(str, paths)), direction, **options))


def noise(width, height, mode="RGB", seed=0):
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def fill(folder, *names, size=(20, 20)):
    """Different images under these names, in new folders."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(*size, seed=seed).save(folder / name)
    return folder


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(source):
    with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
        return np.asarray(image).astype(int)


# The networks


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


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_are_of_one_size_and_change_nothing(model, tmp_path, monkeypatch, batch):
    """7 images of two sizes in turn; each is what it is alone, up to rounding."""
    sizes = [(40, 30), (30, 40), (40, 30), (40, 30), (30, 40), (40, 30), (40, 30)]
    for number, size in enumerate(sizes):
        fill(tmp_path / "in", f"{number}.png", size=size)
    seen, real = [], Translator.translate_pixels
    monkeypatch.setattr(
        Translator, "translate_pixels", lambda self, pixels: seen.append(tuple(pixels.shape)) or real(self, pixels)
    )
    translate(model, tmp_path / "in", tmp_path / "out", batch=batch)
    assert sorted(seen) == (
        [(2, 3, 30, 40), (2, 3, 40, 30), (3, 3, 30, 40)] if batch == 3 else [(1, 3, 30, 40)] * 5 + [(1, 3, 40, 30)] * 2
    )
    monkeypatch.undo()
    translator = Translator(model, "a2b")
    for number in range(len(sizes)):
        alone = np.asarray(translator(Image.open(tmp_path / "in" / f"{number}.png"))).astype(int)
        assert abs(pixels(tmp_path / "out" / f"{number}.png") - alone).max() <= 1


def test_many_sizes_do_not_wait_for_their_like_for_ever(model, tmp_path, monkeypatch):
    """Of 30 images that are all of different sizes no more than 2 batches of 2 are held back."""
    for number in range(30):
        fill(tmp_path / "in", f"{number:02}.png", size=(20 + number, 20))
    most, real = [], translate_files.by_size

    def watched(images, batch):
        taken = given = 0

        def count():
            nonlocal taken
            for image in images:
                taken += 1
                yield image

        for group in real(count(), batch):
            given += len(group)
            most.append(taken - given)
            yield group

    monkeypatch.setattr(translate_files, "by_size", watched)
    translate(model, tmp_path / "in", tmp_path / "out", batch=2)
    assert len(tree(tmp_path / "out")) == 30 and max(most) == 4


def test_reading_and_writing_go_on_behind_the_computation(model, tmp_path, monkeypatch):
    """The first image is computed when all are read, and written when the second is being computed."""
    fill(tmp_path / "in", *(f"{number}.png" for number in range(4)))
    read, second = threading.Semaphore(0), threading.Event()
    real = image_files.read_picture, image_files.encode, Translator.translate_pixels
    calls = []

    def reading(*arguments):
        read.release()
        return real[0](*arguments)

    def encoding(*arguments):
        assert second.wait(timeout=30)
        return real[1](*arguments)

    def computing(self, pixels):
        calls.append(1)
        if len(calls) == 1:
            assert all(read.acquire(timeout=30) for _ in range(4))
        if len(calls) == 2:
            second.set()
        return real[2](self, pixels)

    monkeypatch.setattr(image_files, "read_picture", reading)
    monkeypatch.setattr(image_files, "encode", encoding)
    monkeypatch.setattr(Translator, "translate_pixels", computing)
    translate(model, tmp_path / "in", tmp_path / "out")
    assert len(tree(tmp_path / "out")) == 4 and len(calls) == 4


def test_bfloat16_is_near_float32_and_not_it(model, tmp_path):
    fill(tmp_path, "x.png", size=(64, 64))
    translate(model, tmp_path / "x.png", tmp_path / "y.png", precision="bfloat16")
    exact = np.asarray(Translator(model, "a2b")(Image.open(tmp_path / "x.png"))).astype(int)
    off = abs(pixels(tmp_path / "y.png") - exact)
    assert 0 < off.mean() < 1, off.mean()


def test_too_little_memory_is_a_failure_of_these_images(model, tmp_path, monkeypatch, capsys):
    fill(tmp_path / "in", "a.png", "b.png")
    fill(tmp_path / "in", "c.png", size=(24, 20))
    real = Translator.translate_pixels

    def scarce(self, pixels):
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return real(self, pixels)

    monkeypatch.setattr(Translator, "translate_pixels", scarce)
    with pytest.raises(UserError, match="2 of 3"):
        translate(model, tmp_path / "in", tmp_path / "out", batch=2)
    assert "smaller --batch" in capsys.readouterr().err and tree(tmp_path / "out") == ["c.png", "failed.jsonl"]


# Which images, and where to


def test_folder_keeps_names_and_tree(model, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, "x.png", ".hidden/x.png", "deeper/photo.v2.jpeg", size=(40, 30))
    noise(30, 40, "L").save(source / "deeper" / "grey.jpg")
    noise(20, 20, "RGBA").save(source / "alpha.PNG")
    deep = Image.fromarray(np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16))
    deep.save(source / "deep.png")
    (source / "._x.png").write_text("not an image, and hidden")
    fill(source, "@eaDir/x.png", "__MACOSX/x.png")
    (source / "notes.txt").write_text("not an image")
    noise(24, 24, "RGB").save(source / "new.avif")
    translate(model, source, out)
    assert read_as((source / "deep.png").read_bytes(), "rgb").getextrema() == (0, 255)  # scaled, not cut off
    written = {name: Image.open(out / name).size for name in tree(out)}
    assert written == {
        "x.png": (40, 30), "deeper/grey.jpg": (30, 40), "deeper/photo.v2.jpeg": (40, 30), "alpha.PNG": (20, 20),
        "deep.png": (20, 20), "new.png": (24, 24),
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "6 of 6 images translated" in told and "left out: 5 (hidden 4, .txt 1)" in told
    for _ in range(2):  # what OUT holds is none of the images, if it lies in IN
        translate(model, source, source / "out")
        assert "6 of 6" in capsys.readouterr().out
    assert tree(source / "out") == tree(out)


@pytest.mark.parametrize(
    ("sources", "written"),
    [
        (["IN/a.jpg"], ["a.jpg"]),
        (["IN/a.jpg", "IN/deep/b.png"], ["a.jpg", "b.png"]),
        (["IN/*.jpg"], ["a.jpg"]),
        (["IN/**/*.jpg"], ["a.jpg", "deep/er/d.jpg"]),
        (["IN/d*/*.png"], ["deep/b.png"]),
        (["IN/**"], ["a.jpg", "deep/b.png", "deep/er/d.jpg", "odd[1].png"]),
        (["IN/deep", "IN/a.jpg"], ["a.jpg", "deep/b.png", "deep/er/d.jpg"]),
        (["IN/deep/../deep"], ["b.png", "er/d.jpg"]),
        (["IN/odd[1].png"], ["odd[1].png"]),
        (["IN/a.jpg", "IN/notes.txt"], ["a.jpg"]),
    ],
)
def test_sources(model, tmp_path, sources, written):
    fill(tmp_path / "in", "a.jpg", "deep/b.png", "deep/er/d.jpg", "odd[1].png")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    translate(model, *(source.replace("IN", str(tmp_path / "in")) for source in sources), f"{tmp_path / 'out'}/")
    assert tree(tmp_path / "out") == written
    if "a.jpg" in written:
        assert np.array_equal(
            pixels(tmp_path / "out" / "a.jpg"),
            pixels(encode(Translator(model, "a2b")(Image.open(tmp_path / "in" / "a.jpg")), quality=95, subsampling=0)),
        )


def test_one_file_from_one_checkpoint_in_place_of_a_run(model, tmp_path, capsys):
    fill(tmp_path, "x.png")
    translate(checkpoint.latest_valid(model), tmp_path / "x.png", tmp_path / "y.jpg", direction="b2a")
    assert Image.open(tmp_path / "y.jpg").format == "JPEG"
    assert f"1 of 1 images translated to {tmp_path / 'y.jpg'}" in capsys.readouterr().out
    (tmp_path / "folder").mkdir()
    translate(model, tmp_path / "x.png", tmp_path / "folder", direction="b2a")
    assert tree(tmp_path / "folder") == ["x.png"]


def test_links_to_folders_are_followed_once(model, tmp_path):
    fill(tmp_path, "in/x.png", "elsewhere/y.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    translate(model, tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == ["linked/y.png", "x.png"]


@pytest.mark.parametrize(
    ("names", "paths", "options", "words"),
    [
        (("x.png",), ("x.png", "x.png"), {}, ("overwrite",)),
        (("d/x.png",), ("d", "d"), {}, ("overwrite",)),
        (("d/x.png", "e/x.png"), ("d/x.png", "e/x.png", "e"), {}, ("overwrite",)),
        (("d/y.png", "e/x.png"), ("d/y.png", "e/x.png", "e"), {}, ("overwrite",)),
        (("d/x.png", "e/x.png"), ("d/x.png", "e/x.png", "out"), {}, ("d/x.png", "e/x.png", "would both become")),
        (("d/x.png", "d/x.cycle.png"), ("d", "out"), {"also": ("cycle",)}, ("d/x.cycle.png", "would both become")),
        (("x.png",), ("x.png", "y.xyz"), {}, (".png",)),
        (("x.png", "y.png"), ("x.png", "y.png", "y.png"), {}, ("is a file",)),
        (("x.png",), ("x.png", "x.png/deeper/"), {}, ("is a file",)),
        (("x.png",), ("*.jpg", "out"), {}, ("no images", "*.jpg")),
        (("x.png",), ("x.png", "out/"), {"batch": 0}, ("--batch 0",)),
        (("x.png",), ("x.png", "out/"), {"direction": "both"}, ("--direction both", "a2b", "b2a")),
        (("x.png",), ("x.png", "out/"), {"split": "test"}, ("--split", "drop it")),
        (("x.png",), ("x.png",), {}, ("where to write",)),
        (("x.png",), ("x.png", "out/"), {"device": "quantum"}, ("--device quantum",)),
        (("x.png",), ("x.png", "out/"), {"weights": "ema"}, ("--weights ema", "--ema-pairs")),
    ],
)
def test_refused_with_nothing_written(model, tmp_path, names, paths, options, words):
    fill(tmp_path, *names)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    slash = "/" if paths[-1].endswith("/") else ""
    with pytest.raises(UserError) as refused:
        translate(model, *(tmp_path / path for path in paths[:-1]), f"{tmp_path / paths[-1]}{slash}", **options)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)
    assert {name: (tmp_path / name).read_bytes() for name in tree(tmp_path)} == before


# Shards


def stored(shards, split):
    """The images of a split by their names in the tars."""
    found = {}
    for path in sorted(shards.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def test_shards_by_their_keys(model, shards, tmp_path):
    translate(model, shards, tmp_path / "out")
    images = stored(shards, "testA")
    assert tree(tmp_path / "out") == sorted(images) and len(images) == 3
    translator = Translator(model, "a2b")
    for name, data in images.items():
        fake = translator(Image.open(io.BytesIO(data)))
        assert (tmp_path / "out" / name).read_bytes() == encode(fake, quality=95, subsampling=0, comment="Zorse")


def test_shards_in_both_directions_of_the_training_images(model, shards, tmp_path, capsys):
    translate(model, shards, tmp_path / "out", direction="both", split="train")
    expected = [f"a2b/{name}" for name in stored(shards, "trainA")]
    expected += [f"b2a/{name}" for name in stored(shards, "trainB")]
    assert tree(tmp_path / "out") == sorted(expected) and len(expected) == 18
    name = next(iter(stored(shards, "trainB")))
    fake = Translator(model, "b2a")(Image.open(io.BytesIO(stored(shards, "trainB")[name])))
    assert (tmp_path / "out" / "b2a" / name).read_bytes() == encode(fake, quality=95, subsampling=0, comment="Zorse")
    assert "18 of 18" in capsys.readouterr().out


def test_shards_at_a_url_that_are_partly_translated(model, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # of the cache
    translate(model, shards, tmp_path / "out", direction="b2a")
    names = tree(tmp_path / "out")
    (tmp_path / "out" / names[1]).unlink()
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    translate(model, shards.as_uri(), tmp_path / "out", direction="b2a", skip_existing=True)
    assert "1 of 5 images translated" in (told := capsys.readouterr().out) and "4 existed already" in told
    assert tree(tmp_path / "out") == names
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept


def test_a_damaged_sample_of_shards_is_named(model, shards, tmp_path, capsys):
    copy = shutil.copytree(shards, tmp_path / "shards")
    tar = next(copy.glob("testA-*.tar"))
    with tarfile.open(tar) as opened:
        member = opened.getmembers()[1]
    data = bytearray(tar.read_bytes())
    data[member.offset_data : member.offset_data + member.size] = bytes(member.size)
    tar.write_bytes(data)
    with pytest.raises(UserError, match="1 of 3"):
        translate(model, copy, tmp_path / "out")
    assert f"{tar.name} sample 1: not an image" in capsys.readouterr().err
    assert len(tree(tmp_path / "out")) == 3 and member.name not in tree(tmp_path / "out")


@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "a/../../out.jpg"])
def test_no_name_in_a_tar_leads_out_of_the_folder(tmp_path, name):
    class Evil:
        tars = (type("Tar", (), {"name": "x.tar"}),)
        locate, read_with_name = (lambda self, sample: (0, sample)), (lambda self, sample: (name, b""))
        __len__ = lambda self: 1  # noqa: E731

    options = Options(Path(), ("shards", str(tmp_path)), "a2b")
    (item,) = translate_files.items_of(options, {"a2b": Evil()})
    with pytest.raises(translate_files.CorruptSample, match="leads out"):
        item.read()


def test_shards_that_cannot_be_taken(model, shards, make_shards, tmp_path):
    fill(tmp_path, "x.png")
    with pytest.raises(UserError, match="mixed"):
        translate(model, shards, tmp_path / "x.png", tmp_path / "out")
    with pytest.raises(UserError, match="is a file"):
        translate(model, shards, tmp_path / "x.png")
    unfinished = shutil.copytree(shards, tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        translate(model, unfinished, tmp_path / "out")
    manifest = json.loads((shards / "manifest.json").read_text())
    del manifest["splits"]["testA"]
    (unfinished / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no test images of domain a; give --split train"):
        translate(model, unfinished, tmp_path / "out", direction="both")
    fill(tmp_path / "other", "y.png")
    (tmp_path / "other" / "manifest.json").write_text('{"format": "of a web page"}')  # a folder as any other
    translate(model, tmp_path / "other", tmp_path / "out")
    assert tree(tmp_path / "out") == ["y.png"]


# What a file holds besides colours


def hole(kind, **options):
    return encode(with_hole(), kind, **options)


def transparent_gif():
    image = Image.fromarray(PHOTO).quantize(4)
    return encode(image, "GIF", transparency=image.getpixel((0, 0)))


@pytest.mark.parametrize(
    ("name", "data", "written"),
    [
        ("x.png", hole("PNG"), "x.png"),
        ("x.webp", hole("WEBP", lossless=True), "x.webp"),
        ("x.tif", hole("TIFF"), "x.tif"),
        ("x.png", encode(with_hole(100), "PNG"), "x.png"),
        ("x.png", transparent_palette(), "x.png"),
        ("x.gif", transparent_gif(), "x.png"),
        ("x.png", encode(Image.fromarray(with_hole()).convert("LA"), "PNG"), "x.png"),
        ("x.jpg", hole("PNG"), "x.png"),  # misnamed
    ],
    ids=("png", "webp", "tiff", "half", "palette", "gif", "grey", "misnamed"),
)
def test_transparency_is_put_back(model, tmp_path, name, data, written):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    translate(model, tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == [written]
    source = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", source.size, "white"), source).convert("RGB")
    expected = Translator(model, "a2b")(white)
    expected.putalpha(source.getchannel("A"))
    if written == "x.webp":
        assert np.array_equal(pixels(tmp_path / "out" / written), pixels(encode(expected, "WEBP", quality=95)))
    else:
        assert np.array_equal(pixels(tmp_path / "out" / written), np.asarray(expected))


def test_pixels_are_those_that_are_prepared_for_training():
    """12 bits, white that is 0, a transparent level of 4 bits; and of half a file nothing."""
    shades = (np.arange(40 * 60, dtype=np.uint8) % 16).reshape(40, 60, 1)
    for data in (
        tiff((RAMP >> 4)[..., None], Tiff(12)),
        tiff(RAMP[..., None], Tiff(16, photometric=0, order=">")),
        png(shades, 4, transparent=(3,)),
    ):
        for mode in ("rgb", "grey16"):
            prepared = prepare(data, ImagePolicy(64, 16, lossless=True), mode)
            picture = image_files.read_picture(data, mode)
            assert np.array_equal(picture.image, Image.open(io.BytesIO(prepared.data)))
            assert (picture.alpha is not None) == ("alpha" in prepared.conversions)
    half = encode(PHOTO.repeat(4, 0).repeat(4, 1))
    with pytest.raises(BadImage, match="truncated"):
        image_files.read_picture(half[: len(half) * 3 // 4] + b"\xff\xd9", "rgb")


def test_a_transparency_of_nothing_is_left_out(model, tmp_path):
    encoded = Image.fromarray(np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)]))
    (tmp_path / "in").mkdir()
    encoded.save(tmp_path / "in" / "x.png")
    encoded.save(tmp_path / "in" / "y.webp")
    translate(model, tmp_path / "in", tmp_path / "out")
    assert [Image.open(tmp_path / "out" / name).mode for name in ("x.png", "y.webp")] == ["RGB", "RGB"]


def test_a_name_that_transparency_changes_is_no_others(model, tmp_path, capsys):
    fill(tmp_path / "in", "x.png")
    (tmp_path / "in" / "x.gif").write_bytes(transparent_gif())
    (tmp_path / "in" / "y.gif").write_bytes(transparent_gif())
    with pytest.raises(UserError, match="1 of 3"):
        translate(model, tmp_path / "in", tmp_path / "out")
    assert "x.gif: " in (told := capsys.readouterr().err) and "would both become" in told
    assert tree(tmp_path / "out") == ["failed.jsonl", "x.png", "y.png"]
    assert Image.open(tmp_path / "out" / "x.png").mode == "RGB"  # that of x.png
    translate(model, tmp_path / "in" / "y.gif", tmp_path / "z.gif")
    assert f"translated to {tmp_path / 'z.png'}" in capsys.readouterr().out and not (tmp_path / "z.gif").exists()


def test_the_result_is_upright_and_without_the_tag(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned by 90 degrees
    (tmp_path / "in").mkdir()
    Image.fromarray(with_hole()).save(tmp_path / "in" / "x.png", exif=exif)
    noise(40, 20).save(tmp_path / "in" / "y.jpg", exif=exif, icc_profile=srgb_profile(), dpi=(300, 300))
    translate(model, tmp_path / "in", tmp_path / "out")
    made = Image.open(tmp_path / "out" / "x.png")
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "in" / "x.png"))
    assert np.array_equal(np.asarray(made)[..., 3], np.asarray(upright)[..., 3]) and made.size == (40, 60)
    photo = Image.open(tmp_path / "out" / "y.jpg")
    assert photo.size == (20, 40)
    assert not any(result.getexif() or "icc_profile" in result.info for result in (made, photo))
    seen = ImageOps.exif_transpose(Image.open(tmp_path / "in" / "y.jpg"))
    assert (tmp_path / "out" / "y.jpg").read_bytes() == encode(
        Translator(model, "a2b")(seen), quality=95, subsampling=0, comment="Zorse"
    )


def test_colours_of_another_profile_are_brought_to_srgb(model, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "x.png", icc_profile=swapped_profile())
    translate(model, tmp_path / "x.png", tmp_path / "y.png")
    seen = Image.fromarray(np.ascontiguousarray(PHOTO[..., ::-1]))  # red and blue exchanged
    assert abs(pixels(tmp_path / "y.png") - np.asarray(Translator(model, "a2b")(seen)).astype(int)).mean() < 1
    assert "icc_profile" not in Image.open(tmp_path / "y.png").info


def test_of_an_animation_the_first_frame(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, kind in (("x.gif", "GIF"), ("y.tif", "TIFF"), ("z.webp", "WEBP")):
        (tmp_path / "in" / name).write_bytes(animation(kind))
    fill(tmp_path / "in", "still.png")
    translate(model, tmp_path / "in", tmp_path / "out")
    assert "3 with several frames or pages: the first one was translated" in capsys.readouterr().out
    first = np.asarray(Translator(model, "a2b")(Image.fromarray(PHOTO))).astype(int)
    assert np.array_equal(pixels(tmp_path / "out" / "y.tif"), first)
    assert not any(
        getattr(Image.open(tmp_path / "out" / name), "is_animated", False) for name in tree(tmp_path / "out")
    )


def test_domains_of_other_modes_and_what_lies_beside_them(of_modes, tmp_path):
    """16-bit grey to colour with transparency: translations become .png, what comes back is 16-bit grey again."""
    both = of_modes("grey16", "rgba")
    (tmp_path / "in").mkdir()
    Image.fromarray(RAMP).save(tmp_path / "in" / "x.tif")
    noise(20, 20).save(tmp_path / "in" / "y.jpg")
    translate(both, tmp_path / "in", tmp_path / "out", also=("cycle", "pair"))
    made = {name: Image.open(tmp_path / "out" / name).mode for name in tree(tmp_path / "out")}
    assert made == {
        "x.tif": "RGBA", "x.cycle.tif": "I;16", "x.pair.tif": "RGB", "y.png": "RGBA", "y.cycle.png": "I;16",
        "y.pair.jpg": "RGB",
    }  # fmt: skip
    pair = pixels(tmp_path / "out" / "x.pair.tif")
    assert np.array_equal(pair[:, :60], np.repeat((RAMP / 257).round().astype(int)[..., None], 3, axis=2))
    fake = Image.open(tmp_path / "out" / "x.tif")
    white = Image.alpha_composite(Image.new("RGBA", fake.size, "white"), fake).convert("RGB")
    assert np.array_equal(pair[:, 60:], np.asarray(white))
    back = np.asarray(Translator(both, "b2a")(fake))
    assert abs(pixels(tmp_path / "out" / "x.cycle.tif") - back.astype(int)).max() <= 1
    fill(tmp_path / "alike", "y.png", "y.jpg")
    with pytest.raises(UserError, match="would both become"):
        translate(both, tmp_path / "alike", tmp_path / "nothing")
    with pytest.raises(UserError, match="overwrite"):
        translate(both, tmp_path / "alike" / "y.png", tmp_path / "alike" / "y.jpg")
    assert not (tmp_path / "nothing").exists() and tree(tmp_path / "alike") == ["y.jpg", "y.png"]


def test_there_and_back_and_side_by_side(model, tmp_path):
    fill(tmp_path / "in", "x.png", size=(41, 30))
    (tmp_path / "in" / "y.gif").write_bytes(transparent_gif())
    translate(model, tmp_path / "in", tmp_path / "out", also=("pair", "cycle"))
    assert tree(tmp_path / "out") == [
        "x.cycle.png", "x.pair.png", "x.png", "y.cycle.png", "y.pair.gif", "y.png"
    ]  # fmt: skip
    source = Image.open(tmp_path / "in" / "x.png")
    fake = Translator(model, "a2b")(source)
    back = np.asarray(Translator(model, "b2a")(fake))
    assert np.array_equal(pixels(tmp_path / "out" / "x.png"), np.asarray(fake))
    assert np.array_equal(pixels(tmp_path / "out" / "x.cycle.png"), back)
    assert np.array_equal(pixels(tmp_path / "out" / "x.pair.png"), np.hstack([np.asarray(source), np.asarray(fake)]))
    assert Image.open(tmp_path / "out" / "y.cycle.png").mode == "RGBA"


# Going on, and what fails


def test_what_is_there_is_not_translated_again(model, tmp_path, capsys):
    fill(tmp_path / "in", "x.png", "deep/y.png", "z.png")
    (tmp_path / "in" / "a.gif").write_bytes(transparent_gif())  # becomes a.png
    noise(20, 20).save(tmp_path / "in" / "z.gif")  # stays z.gif, and z.png is another's
    translate(model, tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == ["a.png", "deep/y.png", "x.png", "z.gif", "z.png"]
    for name in ("deep/y.png", "z.gif"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "x.png").write_text("whatever, Zorse")
    kept = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    translate(model, tmp_path / "in", tmp_path / "out", skip_existing=True)
    assert "2 of 5 images translated" in (told := capsys.readouterr().out) and "3 existed already" in told
    assert (tmp_path / "out" / "x.png").read_text() == "whatever, Zorse"
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == kept
    assert tree(tmp_path / "out") == ["a.png", "deep/y.png", "x.png", "z.gif", "z.png"]
    translate(model, tmp_path / "in", tmp_path / "out", skip_existing=True, also=("pair",))  # none has its pair
    assert "5 of 5 images translated" in capsys.readouterr().out
    assert pixels(tmp_path / "out" / "x.png").shape == (20, 20, 3)
    translate(model, tmp_path / "in", tmp_path / "out", skip_existing=True, also=("pair",))
    assert "0 of 5 images translated" in capsys.readouterr().out
    (tmp_path / "out" / "x.png").write_bytes(b"")
    translate(model, tmp_path / "in", tmp_path / "out")  # without the option, all of them
    assert pixels(tmp_path / "out" / "x.png").shape == (20, 20, 3)


def test_a_translation_is_replaced_by_another_and_no_other_file_is(model, tmp_path, capsys):
    """Of any kind of file, also one that holds transparency or 16 bits."""
    names = [f"x.{kind}" for kind in ("jpg", "png", "webp", "tif", "bmp", "gif", "ppm")]
    fill(tmp_path / "in", *names)
    for kind in ("png", "webp", "tif"):
        Image.fromarray(with_hole()).save(tmp_path / "in" / f"alpha.{kind}")
    for kind in ("png", "tif"):
        Image.fromarray(RAMP).save(tmp_path / "in" / f"deep.{kind}")
    for weights in ("raw", "auto"):
        translate(model, tmp_path / "in", tmp_path / "out", also=("pair", "cycle"), weights=weights)
    assert all(Image.open(tmp_path / "out" / name).load() for name in tree(tmp_path / "out"))
    assert len(tree(tmp_path / "out")) == 3 * len(tree(tmp_path / "in"))

    for name in names[::3]:
        before = (tmp_path / "in" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(before)
        with pytest.raises(UserError, match=rf"{name}: already exists and is not a translation; remove it"):
            translate(model, tmp_path / "in", tmp_path / "out")
        assert (tmp_path / "out" / name).read_bytes() == before
        translate(model, tmp_path / "in", tmp_path / "out", skip_existing=True)
        (tmp_path / "out" / name).unlink()
    assert "existed already" in capsys.readouterr().out


def test_shards_replace_no_other_file(model, shards, tmp_path, capsys):
    name = next(iter(stored(shards, "testA")))
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="1 of 3"):
        translate(model, shards, tmp_path)
    assert "already exists" in capsys.readouterr().err and (tmp_path / name).read_text() == "mine"


def test_names_that_a_file_system_takes_for_one(model, tmp_path, monkeypatch):
    """A disk without upper and lower case, or one that composes characters; here both are told apart."""
    fill(tmp_path / "in", "deep/a.png", "Deep/a.png", "e\u0301.png", "\u00e9.png", "b.png")
    translate(model, tmp_path / "in", tmp_path / "out")
    assert len(tree(tmp_path / "out")) == 5 and not list((tmp_path / "out").rglob(".*"))
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "deep" or exists(path))
    with pytest.raises(UserError, match=r"deep/a.png would become .*, which are the same file there; rename one"):
        translate(model, tmp_path / "in", tmp_path / "out")


def test_the_longest_names(model, tmp_path, capsys):
    long = "x" * 251 + ".png"
    fill(tmp_path / "in", long)
    translate(model, tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == [long]
    fill(tmp_path / "in", "y.png")
    with pytest.raises(UserError, match="1 of 2"):  # and one that becomes too long
        translate(model, tmp_path / "in", tmp_path / "out", also=("cycle",))
    assert "File name too long" in capsys.readouterr().err and "y.cycle.png" in tree(tmp_path / "out")


def test_unreadable_files_are_named_and_the_others_are_done(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_text("<html>")
    noise(8, 8).save(tmp_path / "in" / "c.png")
    (tmp_path / "in" / "c.png").write_bytes((tmp_path / "in" / "c.png").read_bytes()[:60])
    noise(1, 17000).save(tmp_path / "in" / "tall.png")  # WebP cannot hold it
    (tmp_path / "in" / "tall.png").rename(tmp_path / "in" / "tall.webp")
    noise(20, 20).save(tmp_path / "in" / "b.jpg")
    done = cli(model, tmp_path / "in", tmp_path / "out", "--direction", "a2b", "--batch", "2")
    *listed, last = done.stderr.splitlines()
    assert done.returncode == 2 and "1 of 4 images translated" in done.stdout
    assert [Path(line.split(":")[0]).name for line in listed] == ["a.jpg", "c.png", "tall.webp"], done.stderr
    assert last == f"error: 3 of 4 files failed, all listed in {tmp_path / 'out' / 'failed.jsonl'}; fix or remove them"
    assert tree(tmp_path / "out") == ["b.jpg", "failed.jsonl"]


def test_of_many_failures_ten_are_told_and_all_are_listed_in_a_file(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    names = [f"{number:02}\x1b[31m\n.jpg" for number in range(13)]
    for name in names:
        (tmp_path / "in" / name).write_text("<html>")
    with pytest.raises(UserError, match=r"13 of 13 files failed, all listed in .*/failed\.jsonl"):
        translate(model, tmp_path / "in", tmp_path / "out")
    assert len(lines := capsys.readouterr().err.splitlines()) == 11 and lines[-1] == "and 3 more"
    assert "\\x1b[31m\\n.jpg: not an image" in lines[0]
    (listed,) = (tmp_path / "out").iterdir()
    found = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [Path(line["file"]).name for line in found] == names and "not an image" in found[12]["reason"]
    # The list of the run before goes; what somebody else has there stays.
    for name in names[1:]:
        noise(20, 20).save(tmp_path / "in" / name)
    (tmp_path / "out" / "failed-1.jsonl").write_text('{"mine": 1}\n')
    with pytest.raises(UserError, match="1 of 13 files failed"):
        translate(model, tmp_path / "in", tmp_path / "out")
    assert len(listed.read_text().splitlines()) == 1
    listed.write_text("my notes")
    with pytest.raises(UserError, match=r"1 of 13 files failed, all listed in .*/failed-2\.jsonl"):
        translate(model, tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / names[0]).unlink()
    translate(model, tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("failed*")) == ["failed-1.jsonl", "failed.jsonl"]
    capsys.readouterr()
    with pytest.raises(UserError, match=r"00\.jpg: not an image"):  # of one there is no list
        (tmp_path / "00.jpg").write_text("<html>")
        translate(model, tmp_path / "00.jpg", tmp_path / "x.jpg")
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_is_one_failure(model, tmp_path, capsys):
    fill(tmp_path / "in", "x.png", "y.png")
    (tmp_path / "out" / "x.png").mkdir(parents=True)
    with pytest.raises(UserError, match="1 of 2"):
        translate(model, tmp_path / "in", tmp_path / "out")
    assert "x.png" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["failed.jsonl", "x.png", "y.png"]


def test_a_full_disk_ends_it_and_leaves_no_half_file(model, tmp_path, small_disk, capsys):
    fill(tmp_path / "in", *(f"{number:02}.bmp" for number in range(20)), size=(500, 500))  # 0.75 MB each, of 12
    with pytest.raises(UserError) as ended:
        translate(model, tmp_path / "in", small_disk / "out")
    assert "No space left" in str(ended.value) and "--skip-existing" in str(ended.value)
    assert "\n" not in str(ended.value) and capsys.readouterr().err == ""
    files = list((small_disk / "out").iterdir())
    assert 12 <= len(files) <= 16 and f"{len(files)} of 20 images" in str(ended.value)
    assert all(file.suffix == ".bmp" and pixels(file).shape == (500, 500, 3) for file in files)


def test_ctrl_c_says_what_is_done_and_it_can_go_on(model, tmp_path, capsys):
    fill(tmp_path / "in", *(f"{number:03}.png" for number in range(200)), size=(200, 160))
    arguments = [model, tmp_path / "in", tmp_path / "out", "--direction", "a2b"]
    started = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=60)
    written = tree(tmp_path / "out")
    assert started.returncode == 130, told
    assert told.count("\n") == 1 and "--skip-existing" in told, told
    # One more file may be there: Ctrl-C may come when it is written, and not yet counted.
    assert int(told.split()[1]) in (len(written) - 1, len(written)) and "of 200 images" in told, told
    assert 5 <= len(written) < 200 and all(pixels(tmp_path / "out" / name).shape == (160, 200, 3) for name in written)
    translate(model, tmp_path / "in", tmp_path / "out", skip_existing=True)
    assert f"{200 - len(written)} of 200 images translated" in capsys.readouterr().out
    assert tree(tmp_path / "out") == tree(tmp_path / "in")


def test_progress_without_a_terminal_is_plain_lines(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress_bars, "LINE_SECONDS", 0)
    fill(tmp_path / "in", "x.png", "y.png", "z.png")
    translate(model, tmp_path / "in", tmp_path / "out")
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "translating: 3 images"
    assert told[2].startswith("translating: 1/3 images, ") and "img/s" in told[2] and "left" in told[2]
    translate(model, tmp_path / "in" / "x.png", tmp_path / "y.png")
    assert "translating" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nowhere", "x.png", "y.png", "--direction", "a2b"), "no checkpoint"),
        (("MODEL", "nowhere.png", "y.png", "--direction", "a2b"), "no such file"),
        (("MODEL", "nothing/*.png", "out", "--direction", "a2b"), "no images"),
        (("MODEL", "empty", "out", "--direction", "a2b"), "no images"),
        (("MODEL", "table.csv", "empty", "--direction", "a2b"), "its name is not that of an image (.jpg, "),
        (("MODEL", "x.png", "x.png", "--direction", "a2b"), "overwrite"),
        (("MODEL", "x.png", "y.png", "--direction", "a2b", "--batch", "0"), "--batch"),
    ],
)
def test_mistakes_in_one_line_before_torch_is_loaded(model, tmp_path, arguments, word):
    fill(tmp_path, "x.png")
    (tmp_path / "table.csv").write_text("image,label\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "modules" / "torch").mkdir(parents=True)
    (tmp_path / "modules" / "torch" / "__init__.py").write_text("raise SystemExit('torch was loaded')")
    paths = [model if part == "MODEL" else tmp_path / part if i < 3 else part for i, part in enumerate(arguments)]
    done = cli(*paths, PYTHONPATH=f"{tmp_path / 'modules'}:{ROOT}")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ") and word in lines[0], done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "modules", "table.csv", "x.png"]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (TransientError("a server is away"), 1, "error: a server is away\n"),
        (UserError("no image"), 2, "error: no image\n"),
        (KeyboardInterrupt("stopped: 3 of 4"), 130, "stopped: 3 of 4\n"),
    ],
)
def test_exit_codes(monkeypatch, capsys, error, code, told):
    def ends(options):
        raise error

    monkeypatch.setattr("zorse.commands.translate.run", ends)
    monkeypatch.setattr(sys, "argv", ["translate.py", "run", "in", "out", "--direction", "a2b"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code and capsys.readouterr().err == told


def test_help_and_wrong_options_without_torch(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was loaded')")
    told = cli("--help", PYTHONPATH=f"{tmp_path}:{ROOT}", COLUMNS="100")
    assert told.returncode == 0 and "MODEL IN [IN ...] OUT" in told.stdout and "--skip-existing" in told.stdout
    assert max(map(len, told.stdout.splitlines()[4:])) < 600
    done = cli("run", "x.png", "y.png", "--direction", "sideways", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 2 and "a2b" in done.stderr


@pytest.mark.slow
def test_bands_by_the_command(model, tmp_path, monkeypatch, capsys):
    noise(90, 70).save(tmp_path / "x.png")
    for name, tile in (("whole", "off"), ("bands", "12")):
        done = cli(model, tmp_path / "x.png", tmp_path / f"{name}.png", "--direction", "a2b", "--tile", tile)
        assert done.returncode == 0, done.stderr
    whole, bands = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("whole", "bands"))
    monkeypatch.setattr(progress_bars, "LINE_SECONDS", 0)
    run(Options(model, (str(tmp_path / "x.png"), str(tmp_path / "again.png")), "a2b", tile="12"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" left")]
    assert re.fullmatch(r"(\d+) of \1 bands, 0:00:00 left", lines[-1]) and len(lines) > 20
    assert abs(whole - bands).max() <= 1
    done = cli(model, tmp_path / "x.png", tmp_path / "y.png", "--direction", "a2b", "--tile", "some")
    assert done.returncode == 2 and "--tile some: must be" in done.stderr
