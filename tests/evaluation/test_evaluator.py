"""KID, FID and what comes back, held against other computations; on 1 and on 2 ranks; evaluate.py as it is used."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import HORSE2ZEBRA, ROOT, TINY, command, script, train
from safetensors.torch import load_file, save
from torchmetrics.functional.image import peak_signal_noise_ratio

from zorse.cyclegan.ema import GeneratorEMA
from zorse.cyclegan.resnet import Generator
from zorse.data.dataset import open_shards
from zorse.data.order import RankSlice
from zorse.errors import UserError
from zorse.evaluation.evaluator import Evaluation, cycle_errors
from zorse.evaluation.features import KID_SEED, KID_SUBSETS, feature_network, fid, kid, kid_subset
from zorse.inference.evaluate_checkpoint import Options
from zorse.inference.evaluate_checkpoint import evaluate as evaluate_model

CPU = torch.device("cpu")


def two_sets(real, other, dimensions):
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(dimensions, dimensions))
    return rng.normal(size=(real, dimensions)) @ mixed, rng.normal(size=(other, dimensions)) * 1.5 + 0.3


def squared_mmd(x, y):
    """Unbiased, by its definition: sums over pairs. (Binkowski et al. 2018, equation 4)"""

    def kernel(one, other):
        return (one @ other / len(one) + 1) ** 3

    m, n = len(x), len(y)
    within = [sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (x, y)]
    across = sum(kernel(one, other) for one in x for other in y)
    return within[0] / (m * (m - 1)) + within[1] / (n * (n - 1)) - 2 * across / (m * n)


def test_kid_is_the_mean_of_unbiased_mmds():
    x, y = two_sets(11, 9, 5)
    size = kid_subset(11, 9)
    assert size == 4
    torch.manual_seed(KID_SEED)
    values = []
    for _ in range(KID_SUBSETS):
        chosen = [s[torch.randperm(len(s))[:size].numpy()] for s in (x, y)]
        values.append(squared_mmd(*chosen))
    mean, deviation = kid(torch.from_numpy(x), torch.from_numpy(y))
    assert mean == pytest.approx(np.mean(values), rel=1e-9)
    assert deviation == pytest.approx(np.std(values), rel=1e-9)


def test_kid_leaves_the_random_numbers_of_a_run_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    kid(torch.rand(4, 2, generator=torch.Generator()), torch.rand(4, 2, generator=torch.Generator()))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("real", "other", "dimensions"), [(40, 30, 6), (9, 12, 64)])
def test_fid_is_that_of_its_definition(real, other, dimensions):
    """The second case has fewer images than dimensions, which is computed in fewer."""
    x, y = two_sets(real, other, dimensions)
    sigma_x, sigma_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(sigma_x)
    root_x = vectors * np.sqrt(values.clip(0)) @ vectors.T
    roots = np.sqrt(np.linalg.eigvalsh(root_x @ sigma_y @ root_x).clip(0))  # those of sigma_x sigma_y
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sigma_x) + np.trace(sigma_y) - 2 * roots.sum()
    assert fid(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-4)


def test_what_comes_back():
    one = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    other = one + 0.1 * torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    error = (one - other).double()
    errors = cycle_errors(torch.stack([error.abs().mean((1, 2, 3)), error.square().mean((1, 2, 3))], 1))
    assert errors["cycle_l1"] == pytest.approx((one - other).abs().mean().item(), rel=1e-6)
    assert errors["cycle_psnr"] == pytest.approx(peak_signal_noise_ratio(other, one, data_range=1.0).item(), rel=1e-5)
    assert 58 < cycle_errors(torch.zeros(2, 2))["cycle_psnr"] < 60


class Recorded:
    """A feature network that keeps what it was shown."""

    name, sha256, resize, classify, cells = "recorded", "0" * 64, "not", None, None

    def __init__(self):
        self.seen = 0

    def describe(self, pixels):
        self.seen += len(pixels)
        return pixels.float().mean(dim=3).flatten(1)[:, ::7]


def test_a_perfect_translator_and_an_idle_one(shards):
    """One that gives the real images of the other domain has no distance but that of subsets; one that does nothing has
    that of untranslated images."""
    opened = open_shards(shards)
    evaluation = Evaluation(opened, (32, 32), RankSlice(0, 1, 1, 1), lambda x: x, network=Recorded())
    idle = evaluation(lambda way, pixels: pixels)
    for way in ("a_to_b", "b_to_a"):
        assert {name: idle[way][name] for name in idle["untranslated"][way]} == idle["untranslated"][way]
        assert idle[way]["cycle_l1"] == 0
    assert idle["protocol"]["images"] == {"a_to_b": 3, "b_to_a": 5}
    assert idle["protocol"]["data"] == opened.fingerprint


def test_features_of_real_images_are_kept_and_used_again(make_shards):
    opened = open_shards(make_shards(4, 4, 3, 3))
    share, results, seen = RankSlice(0, 1, 1, 1), [], []
    for _ in range(2):
        network = Recorded()
        evaluation = Evaluation(opened, (32, 32), share, lambda x: x, network=network)
        seen.append(network.seen)
        results.append(evaluation(lambda way, pixels: 255 - pixels))
    assert seen == [3 + 3 + 3 + 3, 0] and results[0] == results[1]
    files = sorted(Path(opened.root, "features").iterdir())
    assert len(files) == 4 and load_file(files[0])["features"].shape[0] == 3
    features, intact = load_file(files[0])["features"].clone(), files[0].read_bytes()
    flipped = bytearray(intact)
    flipped[-3] ^= 1
    for damaged in (
        b"half of it",
        intact[:-1],
        bytes(flipped),
        save({"features": features[:2]}),
        save({"x": features}),
    ):
        files[0].write_bytes(damaged)
        network = Recorded()
        Evaluation(opened, (32, 32), share, lambda x: x, network=network)
        assert network.seen == 3 and files[0].read_bytes() == intact
    other = Recorded()
    other.sha256 = "1" * 64
    Evaluation(opened, (32, 32), share, lambda x: x, network=other)
    assert other.seen == 12


def test_efficientnet_lite0_knows_its_images():
    network = feature_network("efficientnet_lite0", None, CPU)
    pixels = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert network.describe(pixels).shape == (2, 1280)
    torch.testing.assert_close(network.describe(pixels[1:]), network.describe(pixels)[1:], rtol=1e-4, atol=1e-5)
    assert network.cells(pixels).shape == (2, 112, 14, 14)
    assert len(network.sha256) == 64


@pytest.mark.slow
@pytest.mark.skipif(not HORSE2ZEBRA.is_dir(), reason="the real horse2zebra is not beside the project")
def test_real_horses_and_zebras():
    """Reference figures that were computed elsewhere: 95.0 % of the test zebras are class 340 and no horse is; their
    distances are those of testA/trainB and testB/trainA, 0.2139 and 0.2182, but for the smaller sets."""
    network = feature_network("efficientnet_lite0", None, CPU)
    found = {}
    for split in ("testA", "testB"):
        files = sorted((HORSE2ZEBRA / split).iterdir())
        pixels = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
        chunks = [torch.stack(pixels[i : i + 20]) for i in range(0, len(pixels), 20)]
        features = torch.cat([network.describe(chunk) for chunk in chunks])
        classes = torch.cat([network.classify(chunk) for chunk in chunks[:2]])
        found[split] = features, (classes == 340).float().mean().item()
    assert found["testA"][1] == 0 and found["testB"][1] > 0.85
    assert kid(found["testB"][0], found["testA"][0])[0] == pytest.approx(0.216, abs=0.008)
    halves = found["testB"][0][:70], found["testB"][0][70:]
    assert kid(*halves)[0] < 0.01


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('it was run')",)


def test_inception_weights_from_a_file(tmp_path, monkeypatch):
    """The code for the real ones, on a file of the same kind with other numbers."""
    import torch_fidelity.feature_extractor_inceptionv3 as inception

    with monkeypatch.context() as patch:  # the network as it is before weights are loaded
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        plain = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    network = feature_network("inception_v3", tmp_path / "weights.pth", CPU)
    pixels = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    assert torch.equal(network.describe(pixels), plain(pixels)[0]) and network.describe(pixels).shape == (2, 2048)

    # Exchanged while it is judged: what was read is used, and nothing is read again.
    def read_and_exchange(path, read=Path.read_bytes):
        data = read(path)
        path.write_bytes(pickle.dumps(Bomb()))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_and_exchange)
        again = feature_network("inception_v3", tmp_path / "weights.pth", CPU)
    assert again.sha256 == network.sha256 and torch.equal(again.describe(pixels), network.describe(pixels))

    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Bomb()))
    for wrong in ("pickle.pth", "absent.pth"):
        with pytest.raises(UserError, match=r"--feature-weights .*: not the weights of inception_v3 .*; give http"):
            feature_network("inception_v3", tmp_path / wrong, CPU)


def test_the_average_is_the_mean_of_its_half_lives():
    generators = torch.nn.ModuleDict({"a_to_b": Generator(4, 1, 3, 3)}).double()
    average = GeneratorEMA(generators, half_life=100)
    name = "a_to_b." + next(iter(dict(generators["a_to_b"].named_parameters())))
    weight = dict(generators.named_parameters())[name]
    expected = weight.detach().clone()
    for pairs in range(4, 81, 4):
        with torch.no_grad():
            weight.add_(1)
        average.update(generators, pairs, 4)
        kept = 0.5 ** (4 / min(100, 0.05 * pairs))
        expected = kept * expected + (1 - kept) * weight.detach()
    torch.testing.assert_close(dict(average.generators.named_parameters())[name], expected)


EVALUATED = [
    *TINY[:-2],
    "--epochs",
    "1",
    "--decay-epochs",
    "0",
    "--batch",
    "2",
    "--ema-pairs",
    "50",
    "--image-pool-size",
    "3",
]
EVALUATED += ["--load-size", "47", "--test-size", "load"]  # 44, of which the generators take a multiple of 4


@pytest.fixture(scope="module")
def evaluated(shards, tmp_path_factory):
    """A run of 12 pairs with averaged weights, that evaluates by EfficientNet-Lite0 at its ends."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    done = train("--data", shards, "--out", out, *EVALUATED, "--dtype", "float64")
    assert done.returncode == 0, done.stderr
    assert "KID efficientnet_lite0 ↓" in done.stdout
    assert Image.open(out / "samples" / "000000012.png").width == 4 + 6 * (4 + 88)  # each pixel twice
    return out


def last_evaluation(out):
    return json.loads((out / "eval" / "000000012.json").read_text())


def test_two_ranks_find_the_same_numbers(shards, evaluated, tmp_path):
    done = train("--data", shards, "--out", tmp_path, *EVALUATED, "--dtype", "float64", ranks=2)
    assert done.returncode == 0, done.stderr
    one, two = last_evaluation(evaluated), last_evaluation(tmp_path)
    assert one["protocol"] == two["protocol"] and one["weights"] == two["weights"] == "ema"
    for way in ("a_to_b", "b_to_a"):
        for name in one[way]:
            assert two[way][name] == pytest.approx(one[way][name], rel=1e-3, abs=1e-6), name
        assert two["untranslated"][way] == pytest.approx(one["untranslated"][way], rel=1e-9)
    best = json.loads((tmp_path / "checkpoints" / "best" / "state.json").read_text())["best"]
    assert best["metric"] == "kid_efficientnet_lite0"


def evaluate(*options, launcher=()):
    if not launcher:
        return script("pipeline/evaluate.py", *options)
    return command([*launcher, ROOT / "pipeline" / "evaluate.py", *options])


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_as_the_run_did(shards, evaluated, tmp_path):
    """Also by two processes, and the weights themselves on request."""
    done = evaluate(evaluated, "--class-b", "340")
    assert done.returncode == 0, done.stderr
    assert "KID efficientnet_lite0 ↓" in done.stdout and "share taken for class 340 ↑" in done.stdout
    names = {path.name for path in (evaluated / "eval").iterdir()}
    mine = json.loads(
        (evaluated / "eval" / "pairs-000000000012.efficientnet_lite0.test.ema.class_b340.json").read_text()
    )
    theirs = last_evaluation(evaluated)
    assert mine["protocol"] == theirs["protocol"] and len(names) == 3
    assert mine["protocol"]["image_size"] == 44
    for way in ("a_to_b", "b_to_a"):
        for name, value in theirs[way].items():  # in float32 here, and in float64 there
            assert mine[way][name] == pytest.approx(value, rel=2e-2, abs=1e-4), name
    assert set(mine["a_to_b"]) - set(theirs["a_to_b"]) == {"share_of_class_340"}

    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = evaluate(evaluated, "--out", tmp_path / "two.json", launcher=ranks)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["a_to_b"] == {name: value for name, value in mine["a_to_b"].items() if "class" not in name}

    done = evaluate(evaluated, "--weights", "raw", "--real", "train", "--images", "2", "--out", tmp_path / "raw.json")
    assert done.returncode == 0, done.stderr
    raw = json.loads((tmp_path / "raw.json").read_text())
    assert raw["weights"] == "raw" and raw["protocol"]["real_split"] == "train"
    assert raw["protocol"]["real_images"] == {"a_to_b": 2, "b_to_a": 2}


def test_patches_alone_are_compared_without_a_network(evaluated, tmp_path):
    done = evaluate(evaluated, "--features", "none", "--out", tmp_path / "patches.json")
    assert done.returncode == 0, done.stderr
    found, theirs = json.loads((tmp_path / "patches.json").read_text()), last_evaluation(evaluated)
    assert found["protocol"]["features"] is None and not any("kid" in name or "fid" in name for name in found["a_to_b"])
    # The untranslated images depend on no weights and no precision.
    for way in ("a_to_b", "b_to_a"):
        value = theirs["untranslated"][way]["sliced_wasserstein"]
        assert found["untranslated"][way]["sliced_wasserstein"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "30"], "--size 30: must be a multiple of 4, from 16 to 8192"),
        (["--out", "."], "--out .: is a folder; give a file to write"),
        (["--out", "README.md"], "--out README.md: already exists and holds something else; give another --out"),
        (["--features", "inception_v3", "--imagenet-class-b", "340"], "need --features efficientnet_lite0"),
        (["--features", "inception_v3", "--feature-weights", "absent.pth"], "--feature-weights"),
        (["--features", "none", "--class-a", "340"], "need --features efficientnet_lite0"),
        (["--features", "none", "--feature-weights", "absent.pth"], "--feature-weights is for --features inception_v3"),
    ],
)
def test_mistakes_in_one_line(evaluated, options, words):
    done = evaluate(evaluated, *options)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_network(evaluated, tmp_path):
    done = evaluate(evaluated, "--features", "none", "--out", tmp_path / "none.json")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "none.json").read_text())
    assert set(record["a_to_b"]) == {"sliced_wasserstein", "cycle_l1", "cycle_psnr"}
    assert record["protocol"]["features"] is None
    done = evaluate(evaluated, "--features", "none", "--out", tmp_path / "none.json")  # in place of its own
    assert done.returncode == 0, done.stderr


def test_options_that_cannot_work(tmp_path):
    for options, words in (
        ({"images": 1}, "--images 1: must"),
        ({"imagenet_class_b": 1000}, "--imagenet-class-b 1000: ImageNet's classes are 0 to 999"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate_model(Options(tmp_path, **options), None)


@pytest.mark.slow
def test_an_average_goes_on_as_if_never_stopped(shards, tmp_path):
    options = ["--data", shards, *EVALUATED, "--features", "none", "--dtype", "float64", "--checkpoint-every", "4"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(*options, "--out", whole).returncode == 0
    assert train(*options, "--out", cut, "--epochs", "0.5").returncode == 0
    done = train(*options, "--out", cut, "--allow-change", "epochs")
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    one, other = (load_file(out / "checkpoints" / "pairs-000000000012" / "ema.safetensors") for out in (whole, cut))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name])
    raw = load_file(whole / "checkpoints" / "pairs-000000000012" / "networks.safetensors")
    assert any(not torch.equal(tensor, raw[f"generators.{name}"]) for name, tensor in one.items())


@pytest.mark.slow
def test_shards_that_are_not_where_the_run_had_them(shards, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(shards)
    assert train("--data", link, "--out", tmp_path / "run", *EVALUATED, "--features", "none").returncode == 0
    link.unlink()
    done = evaluate(tmp_path / "run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert (
        "the run's shards were not found; start in the folder where training was started, or give --data" in done.stderr
    )
