"""Partners: test images of one name in both domains, as the manifest lists them and training reads them."""

import json

import nibabel
import numpy as np
import pytest
from prep_tools import done, make_folder, manifest_of, noisy_jpeg, prep, shard

from zorse.data.dataset import open_shards
from zorse.errors import UserError

# By domain: what comes to the shards of testA and testB, each file with an image of its own.
A = ["x.jpg", "y.jpg", "sub/x.jpg", "site-1.jpg", "twice.jpg", "twice.jpeg", "7.jpg", "2020/01-02.jpg", "broken.jpg"]
B = ["x.jpeg", "z.jpg", "sub/x.jpg", "site-1.png.jpg", "twice.jpg", "y.jpg", "7.jpg", "2020/01-02.jpg", "broken.jpg"]
PARTNERS = {"x", "y", "sub/x"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of which each has its own bytes."""
    root = make_folder(tmp_path_factory.mktemp("partners") / "images", {"trainA": 3, "trainB": 3})
    for first, (split, names) in zip((1000, 2000), (("testA", A), ("testB", B)), strict=True):
        for number, name in enumerate(names):
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            (root / split / name).write_bytes(noisy_jpeg(first + number))
    (root / "testB" / "broken.jpg").write_bytes(b"\xff\xd8\xff half of an image")
    return root


@pytest.fixture
def out(folder, tmp_path):
    options = ("--shard-size", "4", "--max-corrupt", "0.5")
    told = done(shard("--source", folder, "--out", tmp_path / "out", *options))
    assert "3 of the test images have a partner of the same name" in told
    return tmp_path / "out"


def test_images_of_one_name_are_partners(folder, out):
    """A name goes without its ending; one that two images have, or that is a number, or whose image is unusable, does
    not count."""
    shards = open_shards(out)
    assert [list(pair) for pair in shards.partners] == manifest_of(out)["partners"]
    found = {(shards.test_a.read(a), shards.test_b.read(b)) for a, b in shards.partners}
    files = {name: [*folder.glob(f"test?/{name}.*")] for name in PARTNERS}
    assert found == {tuple(path.read_bytes() for path in sorted(pair)) for pair in files.values()}
    assert "0 faults" in done(prep("verify", out, "--deep"))
    assert "3 of the test images have a partner" in done(prep("stats", out))
    made = manifest_of(out)
    before = {name: value for name, value in made.items() if name != "partners"}  # as it was before partners
    (out / "manifest.json").write_text(json.dumps(before))
    assert open_shards(out).partners == []
    done(prep("finalize", out))
    assert manifest_of(out) == made


def test_nothing_is_said_of_partners_where_there_are_none(folder, tmp_path):
    source = make_folder(tmp_path / "images", {"trainA": 3, "trainB": 3, "testA": 3, "testB": 3})
    assert "partner" not in done(shard("--source", source, "--out", tmp_path / "out"))
    assert "partners" not in manifest_of(tmp_path / "out") and open_shards(tmp_path / "out").partners == []
    done(prep("finalize", tmp_path / "out", "--paired-tests"))
    assert len(open_shards(tmp_path / "out").partners) == 3


@pytest.mark.parametrize("partners", ["all", [[0]], [[0, 8]], [[-1, 0]], [[0, True]], [0]])
def test_partners_that_are_none_are_told_in_one_line(out, partners):
    manifest = manifest_of(out) | {"partners": partners}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is not a manifest of shards; make the shards again"):
        open_shards(out)
    told = prep("stats", out)
    assert told.returncode == 2 and "partners" in told.stderr and told.stderr.count("\n") == 1


def test_slices_of_volumes_are_partners_one_by_one(tmp_path):
    for split, ends in {"trainA": ".npy", "trainB": ".nii.gz", "testA": ".npy", "testB": ".nii.gz"}.items():
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(3):
            volume = np.random.default_rng([number, len(split), ord(split[-1])]).random((4, 20, 20), np.float32)
            path = tmp_path / "images" / split / f"patient-{number}{ends}"
            if ends == ".npy":
                np.save(path, volume)
            else:
                nibabel.save(nibabel.Nifti1Image(np.moveaxis(volume, 0, 2), np.eye(4)), path)
    options = ("--range-a", "0", "1", "--range-b", "0", "1", "--slice-axis-a", "0", "--shard-size", "2")
    done(shard("--source", tmp_path / "images", "--out", tmp_path / "out", *options))
    shards = open_shards(tmp_path / "out")
    assert len(shards.test_a) == len(shards.test_b) == len(shards.partners) == 12
    for a, b in shards.partners:
        name_a, name_b = shards.test_a.read_with_name(a)[0], shards.test_b.read_with_name(b)[0]
        assert name_a[-9:] == name_b[-9:]  # of one slice
    assert "0 faults" in done(prep("verify", tmp_path / "out", "--deep"))
