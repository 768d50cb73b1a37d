"""Structure distance and errors to partners: do translations keep what their images show, and how near is the truth."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from running import TINY, draw, script, shard, train

from zorse.data.dataset import open_shards
from zorse.data.order import RankSlice
from zorse.data.samples import CorruptSample
from zorse.evaluation.content import HIGHEST_PSNR, mean_partner_errors, partner_errors, structure_distance
from zorse.evaluation.evaluator import Evaluation
from zorse.evaluation.features import feature_network
from zorse.runs.summary import in_words
from zorse_prep import demo

WAYS = ("a_to_b", "b_to_a")
SIDE, IN_A, IN_B, PARTNERS = 32, 11, 12, 10
CELLS = SimpleNamespace(  # a feature network of few numbers
    name="cells", sha256="0" * 64, resize="not", classify=None,
    describe=lambda pixels: pixels.float().mean(dim=3).flatten(1)[:, ::7],
    cells=lambda pixels: F.avg_pool2d(pixels.float(), 8) - 127,
)  # fmt: skip


def noise(*shape, high=256, dtype=torch.uint8, seed=0):
    return torch.randint(0, high, shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_structure_is_what_lies_where_in_any_colours():
    network = feature_network("efficientnet_lite0", None, torch.device("cpu"))
    pictures = [np.array(demo.draw(0, "testA", number, 128)) for number in range(6)]
    horses = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    def distances(other):
        return structure_distance(network.cells(horses), network.cells(other))

    assert distances(horses).tolist() == [0] * 6
    kept = [255 - horses, horses[:, [2, 0, 1]], (horses * 0.6 + 50).to(torch.uint8)]  # other colours, less contrast
    lost = [horses.roll(1, 0), horses.flip(3), torch.full_like(horses, 127), noise(*horses.shape)]
    largest, least = (
        max(distances(each).mean().item() for each in kept), min(distances(each).mean().item() for each in lost)
    )  # fmt: skip
    assert 0 < largest < 0.2 and least > 2 * largest, (largest, least)


def plain_ssim(one, other):
    """Of one channel in [0, 1], by its definition: a Gaussian window of 11 pixels around each pixel."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    one, other = (np.pad(each, 5, mode="reflect") for each in (one, other))
    values = []
    for y, x in np.ndindex(one.shape[0] - 10, one.shape[1] - 10):
        p, q = (each[y : y + 11, x : x + 11] for each in (one, other))
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq, c = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2, (window * p * q).sum() - mp * mq
        values.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(values)


@pytest.mark.parametrize(("mode", "full", "dtype"), [("grey", 255, torch.uint8), ("grey16", 65535, torch.int32)])
def test_errors_are_those_of_their_definitions(mode, full, dtype):
    """In levels of the mode, in dB, and SSIM; a row without a partner does not count."""
    one, other = (noise(3, 1, 16, 20, high=full + 1, dtype=dtype, seed=seed) for seed in (0, 1))
    rows = torch.cat([partner_errors(one, other, mode), torch.full((1, 3), torch.nan)])
    found = mean_partner_errors(rows)
    error = (one.double() - other.double()).numpy()
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-9)
    psnr = 10 * np.log10(full**2 / np.square(error).mean((1, 2, 3)))
    assert found["psnr"] == pytest.approx(psnr.mean(), rel=1e-6)
    ssim = [
        plain_ssim(p[0].double().numpy() / full, q[0].double().numpy() / full) for p, q in zip(one, other, strict=True)
    ]
    assert found["ssim"] == pytest.approx(np.mean(ssim), rel=1e-6)
    same = mean_partner_errors(partner_errors(one, one, mode))
    assert same == {"mae": 0, "psnr": pytest.approx(HIGHEST_PSNR), "ssim": pytest.approx(1)}
    assert mean_partner_errors(rows[3:]) == {}


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """Shards of 11 and 12 test images, PNGs of 32 pixels. 10 have partners, which are their negatives."""
    root = tmp_path_factory.mktemp("paired")
    for seed, split in enumerate(("trainA", "trainB")):
        draw(root / "images" / split, 5, SIDE, seed)
    for split, count in (("testA", IN_A), ("testB", IN_B)):
        (root / "images" / split).mkdir()
        for number in range(count):
            name = f"site-{number}" if number < PARTNERS else f"{split}-{number}"
            pixels = noise(6, 6, 3, seed=number if number < PARTNERS else 100 * count + number).numpy()
            pixels = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            Image.fromarray(255 - pixels if split == "testB" else pixels).save(root / "images" / split / f"{name}.png")
    return shard(root / "images", root / "shards", "--lossless", "--shard-size", "4", "--workers", "1")


def evaluated(opened, translate, ranks=1, **how):
    """What an evaluation finds on so many ranks, threads here; rank 0's record."""
    barrier, given, records = threading.Barrier(ranks), [None] * ranks, [None] * ranks

    def work(rank):
        def gather(values):
            given[rank] = values
            barrier.wait()
            together = torch.cat(given)
            barrier.wait()
            return together

        evaluation = Evaluation(opened, (SIDE, SIDE), RankSlice(rank, ranks, 1, ranks), gather, **how)
        records[rank] = evaluation(translate)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records[1:] == [None] * (ranks - 1)
    return records[0]


def test_translations_are_held_against_partners(paired):
    opened = open_shards(paired)
    assert len(opened.partners) == PARTNERS
    right = evaluated(opened, lambda way, pixels: 255 - pixels, network=CELLS)
    idle = evaluated(opened, lambda way, pixels: pixels, network=CELLS)
    grey = evaluated(opened, lambda way, pixels: torch.full_like(pixels, 127), network=CELLS)
    other = evaluated(opened, lambda way, pixels: pixels.roll(1, 0), network=CELLS)
    assert right["protocol"]["partners"] == dict.fromkeys(WAYS, PARTNERS)
    for way in WAYS:
        assert (right[way]["mae"], right[way]["ssim"]) == (0, pytest.approx(1))
        assert right[way]["psnr"] == pytest.approx(HIGHEST_PSNR)
        for name in ("mae", "psnr", "ssim"):
            assert idle[way][name] == right["untranslated"][way][name]
        assert idle[way]["mae"] > 30 and idle[way]["psnr"] < 20 and idle[way]["ssim"] < 0.3
        assert idle[way]["structure_distance"] == 0
        assert right[way]["structure_distance"] < 0.05  # of negatives
        assert min(each[way]["structure_distance"] for each in (grey, other)) > 0.5


def test_fewer_images_have_fewer_partners(paired):
    opened = open_shards(paired)
    few = evaluated(opened, lambda way, pixels: 255 - pixels, network=None, most=4)
    expected = {"a_to_b": sum(a < 4 for a, _ in opened.partners), "b_to_a": sum(b < 4 for _, b in opened.partners)}
    assert few["protocol"]["partners"] == expected
    assert few["a_to_b"]["mae"] == 0 and "structure_distance" not in few["a_to_b"]


def test_ranks_find_the_same_numbers(paired):
    opened = open_shards(paired)

    def translate(way, pixels):
        return pixels.flip(2) // 2

    one = evaluated(opened, translate, network=CELLS)
    assert {"structure_distance", "mae", "psnr", "ssim"} < one["a_to_b"].keys()
    for ranks in (2, 3):
        assert evaluated(opened, translate, ranks, network=CELLS) == one


@pytest.mark.filterwarnings("ignore")
def test_an_image_that_cannot_be_read_is_held_against_no_other(paired):
    """Neither where another stands in for it, nor where it is the partner."""
    opened = open_shards(paired)
    (a, b), read_a, read_b = opened.partners[3], opened.test_a.read, opened.test_b.read

    def without(sample, read):
        def fails(number):
            if number == sample:
                raise CorruptSample("damaged")
            return read(number)

        return fails

    for split, read, sample in ((opened.test_a, read_a, a), (opened.test_b, read_b, b)):
        split.read = without(sample, read)
        found = evaluated(opened, lambda way, pixels: 255 - pixels, network=None)
        assert found["a_to_b"]["mae"] == found["b_to_a"]["mae"] == 0
        split.read = read


def test_records_and_pages_have_them(paired, trained, tmp_path):
    """In training, in evaluate.py and on the report page; where no image has a partner, nothing is said of any."""
    run, names = tmp_path / "run", {"mae", "psnr", "ssim"}
    done = train(*TINY, "--epochs", "0.4", "--decay-epochs", "0", "--data", paired, "--out", run)
    assert done.returncode == 0 and "SSIM ↑" in done.stdout, done.stderr
    (first, *_), (plain, *_) = (sorted((out / "eval").iterdir()) for out in (run, trained))
    record, without = (json.loads(path.read_text()) for path in (first, plain))
    assert names < record["a_to_b"].keys() and not names & without["a_to_b"].keys()
    assert record["protocol"]["partners"]["a_to_b"] == PARTNERS and "partners" not in without["protocol"]
    page, plain = ((out / "report.html").read_text() for out in (run, trained))
    assert all(f"{in_words(name)}, b to a" in page and f"{in_words(name)}, b to a" not in plain for name in names)
    assert '"title":"SSIM' in page  # a chart
    told = script("pipeline/evaluate.py", run, "--out", tmp_path / "record.json")
    assert told.returncode == 0 and all(in_words(name) in told.stdout for name in ("structure_distance", *names))
