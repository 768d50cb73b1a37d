"""Domains of arrays: numbers in their own units, from files to shards, training, evaluation, translation, exports."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import nibabel
import nibabel.testing
import numpy as np
import onnx
import onnxruntime
import pydicom
import pydicom.data
import pytest
import skimage
import tifffile
import torch
from PIL import Image
from prep_tools import assert_refused, done, manifest_of, prep, shard
from running import TINY, script
from runs import EXACT, SEVENTEEN, SIX_STEPS, assert_close, cut_back, final, losses, run

from zorse import Translator
from zorse.data.dataset import open_shards
from zorse.data.pixels import numbers_of, of_numbers
from zorse.errors import UserError
from zorse_prep.format import Arrays
from zorse_prep.pixels import BadImage
from zorse_prep.ranges import as_type, decode_npy, encode_npy

UNLIKE = ["--identity-weight", "0"]  # five channels to one
BANDS = ("blue", "green", "red", "near", "short")


def picture(number: int, channels: int, side: int = 40) -> np.ndarray:
    """Coarse shapes in [0, 1], [C, H, W]."""
    rng = np.random.default_rng([number, channels])
    return np.kron(rng.random((channels, side // 8, side // 8)), np.ones((8, 8))) * 0.9 + rng.random((side, side)) * 0.1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five bands of floats around 0, and 12 bits in 16."""
    root = tmp_path_factory.mktemp("arrays") / "images"
    for split, count in (("trainA", 7), ("trainB", 11), ("testA", 3), ("testB", 5)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            if split.endswith("A"):
                values = (picture(number, 5) * 40 - 20).astype(np.float32)
            else:
                values = (picture(100 + number, 1)[0] * 4095).astype(np.uint16)
            np.save(root / split / f"{split}{number}.npy", values)
    return root


@pytest.fixture(scope="module")
def arrays(folder):
    """Their shards."""
    out = folder.parent / "shards"
    options = ["--range-a", "-25", "25", "--channels-a", *BANDS, "--show-a", "2", "1", "0", "--range-b", "percentiles"]
    done(shard("--source", folder, "--out", out, "--shard-size", "4", *options))
    return out


@pytest.fixture(scope="module")
def alone(arrays, tmp_path_factory):
    """A run on one rank."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(arrays, out, *SIX_STEPS, *EXACT, *UNLIKE, "--ema-pairs", "1")
    return out


def test_percentiles_use_the_whole_range_and_all_numbers_are_kept(folder, arrays):
    shards, modes = open_shards(arrays), manifest_of(arrays)["modes"]
    assert shards.modes["a"] == Arrays("float32", BANDS, (-25.0,) * 5, (25.0,) * 5, (2, 1, 0), None)
    assert modes["b"]["dtype"] == "uint16" and modes["b"]["low"][0] < 200 and 3800 < modes["b"]["high"][0] < 4095
    seen = torch.stack([of_numbers(decode_npy(shards.train_b.read(n)), shards.modes["b"]) for n in range(11)])
    assert (seen.max() - seen.min()) / 2 >= 0.95
    stored = {shards.train_a.read(number) for number in range(7)}
    assert stored == {encode_npy(np.load(path)) for path in (folder / "trainA").iterdir()}
    means = np.mean([np.load(path).mean((1, 2)) for path in (folder / "trainA").iterdir()], axis=0)
    np.testing.assert_allclose(shards.means["a"], means / 25, atol=1e-5)
    assert "0 faults" in done(prep("verify", arrays, "--deep"))


@pytest.mark.slow
def test_n_equals_one(arrays, alone, tmp_path):
    options = [*SIX_STEPS, *EXACT, *UNLIKE, "--ema-pairs", "1", "--grad-accum-steps", "2"]
    run(arrays, tmp_path / "run", *options, ranks=2)
    assert_close(final(tmp_path / "run"), final(alone), 1e-8)
    mine, theirs = (json.loads((out / "eval" / "000000024.json").read_text()) for out in (tmp_path / "run", alone))
    for direction in ("a_to_b", "b_to_a"):
        assert mine[direction] == pytest.approx(theirs[direction], rel=1e-3)


def test_resume_equals_never_having_stopped(arrays, tmp_path):
    run(arrays, tmp_path / "whole", *SEVENTEEN, *UNLIKE, "--keep", "9")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped", symlinks=True)
    cut_back(tmp_path / "stopped", 9)
    assert "at 9 of 17 pairs" in run(arrays, tmp_path / "stopped", *SEVENTEEN, *UNLIKE, "--keep", "9").stdout
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert_close(final(tmp_path / "stopped"), final(tmp_path / "whole"), 0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("int16", -1000, 3000), ("uint16", 0, 65535), ("uint8", 0, 255), ("float32", -0.002, 0.7), ("int32", -5000, 9)],
)
def test_numbers_come_back_in_their_own_units(dtype, low, high):
    mode = Arrays(dtype, ("x", "y"), (low, low), (high, high), (0,))
    rng = np.random.default_rng(0)
    numbers = as_type(rng.uniform(low, high, (3, 2, 16, 16)), dtype)
    seen = of_numbers(numbers, mode)
    assert seen.dtype == torch.float32 and seen.min() >= -1 and seen.max() <= 1
    found = numbers_of(seen, mode)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_allclose(found, numbers, atol=1e-6 * (high - low) if dtype == "float32" else 0, rtol=0)
    beyond = np.full((1, 2, 1, 1), high, np.float64) * 2
    assert float(of_numbers(beyond, mode).max()) == 1


def test_translations_are_in_the_units_of_their_domain(arrays, folder, alone, tmp_path):
    done(
        script("pipeline/translate.py", alone, folder / "testA", tmp_path / "b", "--direction", "a2b", "--also", "pair")
    )
    made = np.load(tmp_path / "b" / "testA0.npy")
    mode = open_shards(arrays).modes["b"]
    assert made.shape == (1, 40, 40) and made.dtype == np.uint16
    assert mode.low[0] <= made.min() < made.max() <= mode.high[0]
    assert (tmp_path / "b" / "testA0.pair.png").exists()
    translator = Translator(alone, "a2b")
    given = np.load(folder / "testA" / "testA0.npy")
    made = made[0].astype(int)
    np.testing.assert_allclose(translator(given)[0], made, atol=1)
    np.testing.assert_allclose(translator(np.stack([given, given]))[1, 0], made, atol=1)
    assert translator(torch.zeros(5, 24, 24)).shape == (1, 24, 24)
    np.testing.assert_allclose(Translator(alone, "a2b", tile=16)(given)[0], made, atol=1)
    with pytest.raises(
        TypeError, match=r"\[C, H, W\] .* of 5 channels in the units of 5 channels of float32, -25 to 25"
    ):
        translator(given[:3])
    # Samples of shards, both ways, and there and back.
    both = ["--direction", "both", "--also", "cycle"]
    done(script("pipeline/translate.py", alone, arrays, tmp_path / "both", *both))
    assert np.load(tmp_path / "both" / "b2a" / "testB-00000000.npy").shape == (5, 40, 40)
    assert np.load(tmp_path / "both" / "b2a" / "testB-00000000.cycle.npy").shape == (40, 40)


def real(name):
    """A file that others wrote, out of a package, or a drawn one."""
    if name.endswith(".dcm"):
        return Path(pydicom.data.get_testdata_file(name, download=False))
    if name.endswith((".nii", ".nii.gz")):
        return Path(nibabel.testing.data_path, name)
    return Path(skimage.__file__).parent / "data" / name


def numbers_in(path):
    """By the reader that the field uses, not by ours."""
    if path.suffix == ".dcm":
        dataset = pydicom.dcmread(path)
        return pydicom.pixels.apply_rescale(dataset.pixel_array, dataset)
    if path.name.endswith((".nii", ".nii.gz")):
        return nibabel.load(path).get_fdata()
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("CT_small.dcm", 1),
        ("MR_small.dcm", 1),
        ("anatomical.nii", 1),
        ("functional.nii", None),
        ("example_nifti2.nii.gz", 1),
        ("cell.png", 1),
        ("multipage.tif", 1),
        ("microscope.tif", 1),
    ],
)
def test_what_identity_networks_give_back_is_what_they_got(tmp_path, monkeypatch, name, tolerance):
    """In the units of the source, in a file of its kind. tolerance: None for floats: 1e-4 of their range."""
    source = tmp_path / name
    if name == "microscope.tif":
        tifffile.imwrite(source, (picture(0, 1, 48)[0] * 4095).astype(np.uint16), resolution=(4, 4))
    else:
        shutil.copy(real(name), source)
    truth = numbers_in(source).astype(float)
    for split in ("trainA", "trainB"):
        (tmp_path / "images" / split).mkdir(parents=True)
        shutil.copy(source, tmp_path / "images" / split / f"{split}-{name}")
    ends = [repr(float(truth.min())), repr(float(truth.max()))]
    options = ["--range-a", *ends, "--range-b", *ends, "--min-side", "3", "--shard-size", "99"]
    done(shard("--source", tmp_path / "images", "--out", tmp_path / "shards", *options))
    short = ["--epochs", "1", "--decay-epochs", "0", "--sample-images", "1"]
    done(script("pipeline/train.py", *TINY, *short, "--data", tmp_path / "shards", "--out", tmp_path / "run"))
    monkeypatch.setattr(Translator, "_generate", lambda self, real: real)
    there = tmp_path / "out" / name
    done(script("pipeline/translate.py", tmp_path / "run", source, there, "--direction", "a2b", "--tile", "off"))
    found = numbers_in(there).astype(float)
    assert found.shape == truth.shape
    span = truth.max() - truth.min()
    assert np.abs(found - truth).max() <= (1e-4 * span if tolerance is None else tolerance)
    if name.endswith((".nii", ".nii.gz")):
        before, after = nibabel.load(source), nibabel.load(there)
        assert np.array_equal(before.affine, after.affine)
        assert before.header.get_zooms() == after.header.get_zooms()
    if name.endswith(".dcm"):
        before, after = pydicom.dcmread(source), pydicom.dcmread(there)
        assert after.PatientID == before.PatientID and after.PixelSpacing == before.PixelSpacing
        assert after.SOPInstanceUID != before.SOPInstanceUID
    if name == "microscope.tif":
        with tifffile.TiffFile(there) as file:
            assert file.pages.first.tags.valueof(282) == (4, 1)


def test_other_commands_take_them_or_say_that_they_do_not(arrays, alone, tmp_path):
    refused = script("pipeline/app.py", alone, "--port", "0")
    assert refused.returncode == 2 and "is for arrays, which the page does not show" in refused.stderr
    checked = script("pipeline/doctor.py", "--data", arrays, *TINY, *UNLIKE, "--out", tmp_path / "new")
    assert checked.returncode == 0 and "FAIL" not in checked.stdout, checked.stdout + checked.stderr
    started = ["--data", arrays, *TINY, *UNLIKE, "--init-from", alone, "--dry-run", "--out", tmp_path / "new"]
    assert "weights" in done(script("pipeline/train.py", *started))
    plain = ["--data", arrays, *TINY, "--dry-run", "--out", tmp_path / "new"]
    told = script("pipeline/train.py", *plain).stderr
    assert "images of a are 5 channels of float32, -25 to 25 and of b 1 channel of uint16" in told
    assert "add --identity-weight 0" in told


def test_weights_that_know_another_range_are_told(folder, alone, tmp_path):
    done(shard("--source", folder, "--out", tmp_path / "other", "--range-a", "-1000", "1000", "--range-b", "type"))
    options = [*TINY, *UNLIKE, "--init-from", alone, "--dry-run", "--out", tmp_path / "new"]
    told = done(script("pipeline/train.py", "--data", tmp_path / "other", *options))
    assert "trained on 5 channels of float32, -25 to 25 in domain a, and the data has 5 channels" in " ".join(
        told.split()
    )


def test_values_outside_the_range_are_told(folder, alone, tmp_path):
    values = np.load(folder / "testA" / "testA0.npy")
    values[:, :8] = 300
    np.save(tmp_path / "hot.npy", values)
    told = done(
        script("pipeline/translate.py", alone, tmp_path / "hot.npy", tmp_path / "out.npy", "--direction", "a2b")
    )
    assert "in 1 of 1 images some values, at most 20.0% of one, lie outside the range" in told


@pytest.mark.slow
def test_exports_say_what_their_numbers_mean(arrays, folder, alone, tmp_path):
    out = tmp_path / "exported"
    formats = ["--formats", "safetensors", "onnx", "--direction", "a2b"]
    done(script("pipeline/export.py", alone, out, *formats))
    props = {prop.key: json.loads(prop.value) for prop in onnx.load(out / "model.onnx").metadata_props}
    assert props["modes"]["from"]["channels"] == list(BANDS) and props["modes"]["from"]["high"] == [25.0] * 5
    given = np.load(folder / "testA" / "testA0.npy")
    (session,) = [onnxruntime.InferenceSession(out / "model.onnx")]
    (made,) = session.run(None, {session.get_inputs()[0].name: (given / 25)[None]})
    (low,), (high,) = props["modes"]["to"]["low"], props["modes"]["to"]["high"]
    expected = Translator.from_pretrained(out)(given)
    assert expected.dtype == np.uint16
    np.testing.assert_allclose((made[0] + 1) / 2 * (high - low) + low, expected, atol=1)
    card = (out / "README.md").read_text()
    assert "blue: -25 to 25" in card and "np.load" in card


def test_a_translation_to_photographs_and_back(folder, make_shards, tmp_path):
    mixed = tmp_path / "images"
    shutil.copytree(folder / "trainB", mixed / "trainA")
    shutil.copytree(make_shards(3, 3, 3, 3).parent / "images" / "trainB", mixed / "trainB")
    done(shard("--source", mixed, "--out", tmp_path / "shards", "--range-a", "0", "4095"))
    run(tmp_path / "shards", tmp_path / "run", *SEVENTEEN, *UNLIKE, "--epochs", "0.2", "--decay-epochs", "0")
    there, back = (["--direction", direction] for direction in ("a2b", "b2a"))
    done(script("pipeline/translate.py", tmp_path / "run", mixed / "trainA", tmp_path / "b", *there))
    assert all(path.suffix == ".png" for path in (tmp_path / "b").iterdir())
    done(script("pipeline/translate.py", tmp_path / "run", tmp_path / "b", tmp_path / "a", *back))
    assert {Image.open(path).mode for path in (tmp_path / "a").iterdir()} == {"I;16"}
    # Networks for other numbers, or for photographs, say so.
    numbers = script("pipeline/translate.py", tmp_path / "run", mixed / "trainA", tmp_path / "d", *back)
    assert numbers.returncode == 2 and "a NumPy array: the model takes photographs" in numbers.stderr
    refused = script("pipeline/translate.py", tmp_path / "run", folder / "testA", tmp_path / "c", *there)
    assert refused.returncode == 2 and "3 of 3 files failed" in refused.stderr and "shape 5 x 40 x 40" in refused.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--range-a", "5", "1"], "--range-a 5 1: give LOW and HIGH"),
        (["--range-a", "nan", "1"], "--range-a nan 1: give LOW and HIGH"),
        (["--range-a", "all"], "--range-a all: give LOW and HIGH"),
        (["--range-a", "type"], "--range-a type: images of a are floats"),
        (["--range-a", "0", "1", "--mode-a", "grey"], "--range-a and --mode-a cannot be combined"),
        (["--channels-a", "x"], "--channels-a is for arrays; add --range-a"),
        (["--range-a", "0", "1", "--show-a", "0", "1"], "--show-a 0 1: give one or three"),
        (["--range-a", "0", "1", "--show-a", "9"], "--show-a: give one or three of the channels 0 to 4"),
        (["--range-a", "0", "1", "--slice-axis-a", "-1"], "--slice-axis-a -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder, tmp_path, options, words):
    out = tmp_path / "out"
    assert_refused(shard("--source", folder, "--out", out, "--range-b", "type", *options), words)
    assert not out.exists()  # told before there is anything to restart


def test_images_of_unlike_channels_are_told(folder, tmp_path):
    mixed = shutil.copytree(folder, tmp_path / "images")
    np.save(mixed / "trainA" / "other.npy", np.zeros((3, 40, 40), np.float32))
    options = ["--source", mixed, "--out", tmp_path / "out", "--range-b", "type", "--range-a", "0", "1"]
    assert_refused(shard(*options), "images of a have 3 and 5 channels; name those to keep with --channels-a")
    made = done(shard(*options, "--channels-a", *BANDS, "--restart", "--max-corrupt", "0.1"))
    assert "neither the first nor the last axis is 5 channels" in made


def test_a_little_of_the_range_is_told_at_preparation(folder, tmp_path):
    options = ["--source", folder, "--out", tmp_path / "out", "--range-a", "-1000", "1000", "--range-b", "type"]
    told = done(shard(*options))
    assert "warning: trainA uses 2% of its range; shard it again with --range-a percentiles and --restart" in told
    assert "warning: trainB uses 6% of its range" in told and "--range-b percentiles" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": [1.0] * 5, "high": [0.0] * 5}, "the range of a mode is empty"),
        ({"low": [0.0]}, "a mode has 5 channels, and a range for 1 and 5"),
        ({"shown": [7]}, "shows channels that it does not have"),
        ({"dtype": "float64"}, "dtype"),
        ({"channels": []}, "a mode has 0 channels"),
        ({"high": [float("inf")] * 5}, "modes"),
    ],
)
def test_records_that_contradict_themselves_are_told(arrays, tmp_path, change, words):
    copied = shutil.copytree(arrays, tmp_path / "shards")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["modes"]["a"] |= change
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=words) as told:
        open_shards(copied)
    assert "\n" not in str(told.value)
    assert_refused(prep("stats", copied), "manifest.json")


def test_a_damaged_member_is_left_out_of_training_and_named(arrays, tmp_path):
    copied = shutil.copytree(arrays, tmp_path / "shards")
    tar = next(copied.glob("trainA-000000-*.tar"))
    with tarfile.open(tar) as opened:
        at = opened.getmembers()[1].offset_data
    content = bytearray(tar.read_bytes())
    content[at : at + 6] = b"\x80\x04cos\n"  # the beginning of a pickle
    tar.write_bytes(content)
    assert "trainA-00000001" in prep("verify", copied, "--deep").stdout
    run(copied, tmp_path / "run", *SEVENTEEN, *UNLIKE)
    (line,) = {
        json.loads(line)["reason"] for line in (tmp_path / "run" / "quarantine-00000.jsonl").read_text().splitlines()
    }
    assert "BadImage: not an array" in line or "checksum" in line


def test_members_that_are_no_arrays_of_numbers():
    for array in (np.array(["a"]), np.zeros((2, 2), complex), np.zeros((1, 1, 1, 1)), np.array([{}], dtype=object)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        with pytest.raises(BadImage):
            decode_npy(buffer.getvalue())


def test_what_is_there_is_skipped_and_nothing_else_is_taken_for_it(folder, alone, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "testA0.png").write_text("an overview of another program's")
    run_it = ["pipeline/translate.py", alone, folder / "testA", out, "--direction", "a2b", "--skip-existing"]
    assert "3 of 3 images translated" in done(script(*run_it))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert "0 of 3 images translated" in done(script(*run_it))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_files_of_a_scanner_have_no_ending(alone, tmp_path):
    (tmp_path / "series").mkdir()
    shutil.copy(real("CT_small.dcm"), tmp_path / "series" / "IM00001")
    (tmp_path / "series" / "notes").write_text("nothing")
    refused = script("pipeline/translate.py", alone, tmp_path / "series", tmp_path / "out", "--direction", "a2b")
    assert refused.returncode == 2 and "IM00001: it has 1 channels, not 5" in refused.stderr  # which it was read for


def test_a_stack_of_a_domain_of_photographs_is_one_file(folder, make_shards, tmp_path):
    mixed = tmp_path / "images"
    for split in ("trainA", "testA"):
        (mixed / split).mkdir(parents=True)
        tifffile.imwrite(
            mixed / split / f"{split}.tif", (picture(1, 3) * 4095).astype(np.uint16), photometric="minisblack"
        )
    shutil.copytree(make_shards(3, 3, 3, 3).parent / "images" / "trainB", mixed / "trainB")
    done(shard("--source", mixed, "--out", tmp_path / "shards", "--range-a", "0", "4095", "--mode-b", "grey"))
    run(tmp_path / "shards", tmp_path / "run", *SEVENTEEN, "--epochs", "0.5", "--decay-epochs", "0")
    done(script("pipeline/translate.py", tmp_path / "run", mixed / "testA", tmp_path / "b", "--direction", "a2b"))
    made = tifffile.imread(tmp_path / "b" / "testA.tif")
    assert made.shape == (3, 40, 40) and made.dtype == np.uint8


def test_a_range_of_percentiles_holds_the_data_wherever_they_lie(tmp_path):
    for split in ("trainA", "trainB"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(3):
            values = np.random.default_rng([number, ord(split[-1])]).random((20, 20))
            values = 1234567 + 3 * values if split == "trainA" else values * 1e-7
            np.save(tmp_path / "images" / split / f"{number}.npy", values)
    options = ["--range-a", "percentiles", "--range-b", "percentiles"]
    done(shard("--source", tmp_path / "images", "--out", tmp_path / "out", *options))
    shards = open_shards(tmp_path / "out")
    for split, mode in ((shards.train_a, shards.modes["a"]), (shards.train_b, shards.modes["b"])):
        seen = torch.stack([of_numbers(decode_npy(split.read(number)), mode) for number in range(3)])
        assert 1.9 < seen.max() - seen.min() <= 2 and abs(seen.mean()) < 0.2


def test_numbers_that_cannot_be_seen_are_refused_in_python(alone, folder):
    given = np.load(folder / "testA" / "testA0.npy")
    given[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        Translator(alone, "a2b")(given)
    with pytest.raises(ValueError, match="taken for"):
        Translator(alone, "a2b")(torch.full((5, 24, 24), 800.0))


def test_a_range_that_is_next_to_nothing_is_widened(tmp_path):
    for split in ("trainA", "trainB"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(2):
            values = np.random.default_rng([number, ord(split[-1])]).random((20, 20)) * 1e-36
            np.save(tmp_path / "images" / split / f"{number}.npy", values)
    options = ["--range-a", "percentiles", "--range-b", "percentiles"]
    done(shard("--source", tmp_path / "images", "--out", tmp_path / "out", *options))
    assert open_shards(tmp_path / "out").modes["a"].high[0] >= 1
