"""Reading shards, and the stream of batches: the same samples for every way to split the work."""

import io
import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from drawn_files import Tiff, tiff
from pictures import PHOTO, RAMP
from PIL import Image
from streams import IMAGES, assert_same, stream

from zorse.config.schema import Images
from zorse.data import loader, workers
from zorse.data.dataset import open_shards
from zorse.data.loader import ReadPairs, pair_batches
from zorse.data.order import RankSlice
from zorse.data.pixels import FULL, augment, decode, image_of, pixels_of, to_network, to_pixels, to_rgb
from zorse.data.samples import _offsets
from zorse.data.workers import handed_over
from zorse.errors import TransientError, UserError
from zorse_prep.format import CHANNELS
from zorse_prep.images import ImagePolicy, prepare


def test_samples_are_those_that_webdataset_reads(shards):
    split = open_shards(shards).train_b
    urls = [str(shards / tar.name) for tar in split.tars]
    plain = [sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False)]
    assert len(plain) == len(split) == 11
    assert [split.read(number) for number in range(len(split))] == plain


def test_every_split_of_the_work_reads_the_same_pairs(shards):
    opened = open_shards(shards)
    whole = stream(opened, 24, batch=4)
    assert sorted(whole) == list(range(24))
    for how in (
        {"world_size": 2},
        {"world_size": 4},
        {"accumulate": 2},
        {"world_size": 2, "accumulate": 2},
        {"workers": 1},
        {"workers": 3},
        {"world_size": 2, "workers": 2},
    ):
        assert_same(whole, stream(opened, 24, batch=4, **how))


def test_flipped_and_rotated_pairs_are_those_of_one_process(shards):
    """And they are what is read without these options, flipped and rotated: nothing else is drawn otherwise."""
    opened, without = open_shards(shards), replace(IMAGES, flip=False)
    turned = replace(without, flip_vertical_a="on", rotate90_a="on", rotate90_b="on")
    whole, plain = stream(opened, 24, images=turned, batch=4), stream(opened, 24, images=without, batch=4)
    for how in ({"world_size": 4}, {"accumulate": 2}, {"world_size": 2, "workers": 2}):
        assert_same(whole, stream(opened, 24, images=turned, batch=4, **how))
    found = {"a": [], "b": []}
    for position, pair in whole.items():
        for domain, now, before in zip("ab", pair, plain[position], strict=True):
            for flipped, turns in product((False, True), range(4)):
                if torch.equal(now, (before.flip(1) if flipped else before).rot90(turns, (1, 2))):
                    found[domain].append((flipped, turns))
    assert len(found["a"]) == len(found["b"]) == 24
    assert len(set(found["a"])) > 5 and set(found["b"]) == {(False, turns) for turns in range(4)}


def test_the_stream_can_be_sent_to_a_spawned_worker(shards):
    """As data loaders do on macOS and, from Python 3.14 on, on Linux."""
    read = ReadPairs(open_shards(shards), IMAGES, seed=1, lanes=1)
    assert torch.equal(next(read(iter([[3]])))["a"], next(pickle.loads(pickle.dumps(read))(iter([[3]])))["a"])


def test_the_stream_can_start_at_any_pair(shards):
    opened = open_shards(shards)
    whole = stream(opened, 30)
    later = stream(opened, 17, start=13, workers=2)
    assert_same({position: whole[position] for position in range(13, 30)}, later)


def test_every_sample_is_seen_once_per_pass(shards):
    """Without cropping and mirroring, an image tells which sample it is."""
    opened = open_shards(shards)
    batches = pair_batches(
        opened,
        Images(load_size=32, crop_size=32, flip=False),
        RankSlice(0, 1, 1, 1),
        seed=0,
        lanes=1,
        start=0,
        workers=0,
        pin=False,
    )
    seen = [next(batches) for _ in range(77)]
    for domain, count in (("a", 7), ("b", 11)):
        keys = [pair[domain].numpy().tobytes() for pair in seen]
        assert len(set(keys)) == count
        passes = [keys[first : first + count] for first in range(0, 77, count)]
        assert all(len(set(one)) == count for one in passes)
        assert len({tuple(one) for one in passes}) > 1
    together = {(pair["a"].numpy().tobytes(), pair["b"].numpy().tobytes()) for pair in seen}
    assert len(together) > 30  # unpaired: partners change from pass to pass


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True}), ("TIFF", {})]
)
def test_decoding_is_pillows_bicubic(kind, mode, options):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize((250, 200)).convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    theirs = np.asarray(Image.open(file).convert("RGB").resize((286, 286), Image.Resampling.BICUBIC))
    ours = decode(file.getvalue(), (286, 286)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs.astype(int)).max() <= 2


@pytest.mark.parametrize("mode", ["rgb", "grey16"])
def test_tiff_in_a_foreign_tar_is_read_as_it_would_be_for_shards(mode):
    """Other tars' images are read as they are; of a TIFF that must not mean other numbers."""
    for data in (
        tiff((RAMP >> 4)[..., None], Tiff(12)),
        tiff(RAMP[..., None], Tiff(16, photometric=0)),
        tiff((RAMP / 65535).astype(np.float32)[..., None], Tiff(32, "float")),
        tiff(PHOTO * np.uint16(257), Tiff(16, photometric=2, planar=2)),
    ):
        stored = decode(prepare(data, ImagePolicy(64, 16, lossless=True), mode).data, (40, 60), mode)
        assert torch.equal(decode(data, (40, 60), mode), stored)


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("size", [(286, 286), (97, 131), (16, 200), (640, 333)])
@pytest.mark.parametrize("mode", ["rgb", "grey", "rgba", "grey16"])
def test_resizing_is_torchvisions(mode, size):
    """To the bit, by its own resize, which is not used since importing it takes two seconds."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    rng, channels = np.random.default_rng(size), CHANNELS[mode]
    pixels = rng.integers(0, 65536 if mode == "grey16" else 256, (channels, 200, 161))
    pixels = torch.from_numpy(pixels).to(torch.int32 if mode == "grey16" else torch.uint8)
    theirs = resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    ours = decode(encoded(np.asarray(image_of(pixels, mode))), size, mode)
    assert ours.dtype == pixels.dtype and torch.equal(ours, theirs.clamp(0, FULL[pixels.dtype]))


def test_pixels_of_each_mode():
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (20, 20), dtype=np.uint16)
    four = rng.integers(0, 256, (20, 20, 4), dtype=np.uint8)
    assert torch.equal(decode(encoded(deep), (20, 20), "grey16"), torch.from_numpy(deep.astype(np.int32))[None])
    assert torch.equal(decode(encoded(four), (20, 20), "rgba"), torch.from_numpy(four).permute(2, 0, 1))
    assert torch.equal(decode(encoded(four[..., 0]), (20, 20), "grey"), torch.from_numpy(four[..., 0])[None])
    shallow = decode(encoded(deep), (20, 20), "rgb")  # scaled, and not cut at 255
    assert (shallow - torch.from_numpy(deep / 257)).abs().max() <= 0.5
    widened = torch.from_numpy(four[..., 0].astype(np.int32))[None] * 257
    assert torch.equal(decode(encoded(four[..., 0]), (20, 20), "grey16"), widened)


@pytest.mark.parametrize("mode", CHANNELS)
def test_a_larger_size_stays_in_the_range_of_the_mode(mode):
    edges = np.kron(np.eye(6, dtype=np.uint16) * 65535, np.ones((3, 3), np.uint16))  # bicubic overshoots at edges
    pixels = decode(encoded(edges), (50, 50), mode)
    assert pixels.shape == (CHANNELS[mode], 50, 50)
    assert (pixels.min(), pixels[0].max()) == (0, FULL[pixels.dtype])


@pytest.mark.parametrize("mode", CHANNELS)
def test_pixels_go_to_the_network_and_back(mode):
    kind = torch.int32 if mode == "grey16" else torch.uint8
    pixels = torch.randint(0, FULL[kind] + 1, (2, CHANNELS[mode], 8, 8), dtype=kind)
    scaled = to_network(pixels, torch.device("cpu"), torch.float32)
    assert scaled.abs().max() <= 1 and torch.equal(to_pixels(scaled, mode), pixels)
    assert torch.equal(pixels_of(image_of(pixels[0], mode), mode), pixels[0])


def test_what_is_transparent_is_seen_on_white():
    pixels = torch.tensor([[10, 20, 30, 0], [10, 20, 30, 255]], dtype=torch.uint8).view(2, 4, 1, 1)
    assert to_rgb(pixels).flatten(1).tolist() == [[255, 255, 255], [10, 20, 30]]


def test_grey_images_become_rgb():
    file = io.BytesIO()
    Image.new("L", (20, 20), 77).save(file, "JPEG")
    assert decode(file.getvalue(), (20, 20)).unique().tolist() == [77]


def test_crops_reach_every_place_and_half_are_mirrored():
    image = torch.arange(36, dtype=torch.uint8).expand(3, 36, 36)  # a pixel's value is its column
    rng = np.random.default_rng(0)
    crops = [augment(image, (32, 32), True, int(bits)) for bits in rng.integers(0, 2**63, 400)]
    mirrored = [bool(crop[0, 0, 0] > crop[0, 0, -1]) for crop in crops]
    lefts = {int(crop[0, 0].min()) for crop in crops}
    assert lefts == {0, 1, 2, 3, 4}
    assert 150 < sum(mirrored) < 250
    assert not any(crop[0, 0, 0] > crop[0, 0, -1] for crop in (augment(image, (32, 32), False, 2**48 - 1),))


def test_flips_and_rotations_are_drawn_apart_from_crops():
    """Each of the eight positions of a square comes as often as another, and crops and mirroring stay as they are."""
    image = torch.arange(36 * 36, dtype=torch.int32).reshape(1, 36, 36)
    every = [int(bits) for bits in np.random.default_rng(0).integers(0, 2**64, 1600, dtype=np.uint64)]
    both = {"flip_vertical": True, "rotate90": True}
    seen = Counter()
    for bits in every:
        plain, turned = augment(image, (32, 32), True, bits), augment(image, (32, 32), True, bits, **both)
        assert torch.equal(turned.unique(), plain.unique())  # the same crop
        corners = turned[0, [0, 0, -1, -1], [0, -1, 0, -1]]
        seen[tuple(corners.argsort().tolist())] += 1
    assert len(seen) == 8 and all(150 < count < 250 for count in seen.values())
    turned = every[0] | 0b111 << 49
    assert torch.equal(augment(image, (32, 32), True, turned), augment(image, (32, 32), True, turned & (1 << 49) - 1))


def test_a_message_goes_through_a_pipe_where_shared_memory_is_full(monkeypatch):
    """Also where another process took what was free a moment before."""
    batch = {name: torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2) for name in ("a", "b")}
    left = Path("/dev/shm/torch_1_2_3")

    def full(tensor):
        left.touch()
        raise RuntimeError(
            f"unable to allocate shared memory(shm) for file </{left.name}>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    sent = handed_over(batch)
    assert isinstance(sent["a"], np.ndarray) and torch.equal(torch.from_numpy(sent["b"]), batch["b"])
    assert not left.exists()
    monkeypatch.undo()
    assert handed_over(batch)["a"].is_shared()
    monkeypatch.setattr(workers, "has_room", lambda size: size != 24)
    assert isinstance(handed_over(batch)["a"], np.ndarray)


def test_a_lost_message_is_noticed(shards, monkeypatch):
    monkeypatch.setattr(loader.PairPositions, "__iter__", lambda self: iter([[0], [2]]))
    batches = pair_batches(
        open_shards(shards), IMAGES, RankSlice(0, 1, 1, 1), seed=0, lanes=1, start=0, workers=0, pin=False
    )
    next(batches)
    with pytest.raises(TransientError, match="lost the pairs from position 1 on"):
        next(batches)


def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_shards(path).check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.fault(14)
def test_missing_tar_is_named(shards, tmp_path):
    path = copy(shards, tmp_path)
    victim = sorted(path.glob("trainB-*.tar"))[1]
    victim.unlink()
    assert victim.name in refusal(path) and "missing" in refusal(path)


@pytest.mark.fault(14)
def test_shortened_tar_is_named(shards, tmp_path):
    path = copy(shards, tmp_path)
    victim = sorted(path.glob("trainA-*.tar"))[0]
    victim.write_bytes(victim.read_bytes()[:-512])
    assert victim.name in refusal(path) and "bytes" in refusal(path)


@pytest.mark.fault(14)
def test_index_that_lies_is_refused_on_reading(shards, tmp_path):
    path = copy(shards, tmp_path)
    index = sorted(path.glob("trainA-*.idx"))[0]
    offsets = np.fromfile(index, dtype="<u8")
    for nonsense in (offsets + 512, offsets * 0, offsets + 2**63, offsets * 2**40, offsets[::-1].copy()):
        nonsense.tofile(index)
        _offsets.cache_clear()
        with pytest.raises(UserError, match="index"):
            open_shards(path).train_a.read(0)


def test_no_manifest_says_how_to_make_it(tmp_path):
    assert "make it with: " in refusal(tmp_path / "nothing")
    (tmp_path / "plan.json").write_text("{}")
    assert "not finished" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": "zorse-shards"}',
        '{"format": "x", "version": 9}',
        '{"format": "zorse-shards", "version": 1, "splits": []}',
    ],
)
def test_manifest_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert "manifest.json" in refusal(tmp_path)


def test_empty_domain_is_refused(shards, tmp_path):
    path = copy(shards, tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["splits"]["trainB"]["shards"] = []
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "trainB" in refusal(path)
