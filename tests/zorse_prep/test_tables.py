"""Tables of the `datasets` library as sources, on disk: columns, labels, splits, configurations."""

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from prep_tools import assert_refused, counts_of, done, manifest_of, noisy_jpeg, prep, shard

from zorse.errors import UserError
from zorse_prep.format import SPLITS
from zorse_prep.items import Item
from zorse_prep.sources import open_source, read


def images(*columns):
    import datasets

    return datasets.Features({column: datasets.Image() for column in columns})


def cells(count: int, first: int = 0) -> list[dict]:
    return [{"bytes": noisy_jpeg(first + number), "path": None} for number in range(count)]


def listed(source) -> dict[str, list[Item]]:
    items = list(source.items)
    return {split: [item for item in items if item.split == split] for split in source.dropped}


def aligned_tables(a: str = "imageA", b: str = "imageB"):
    """Column A filled up to the length of column B, by repeats in train and by nulls in test."""
    import datasets

    def column(count: int, length: int, first: int, null: bool) -> list:
        found = cells(count, first)
        return found + [None if null else found[i % count] for i in range(length - count)]

    sizes = {"train": (20, 30, 0, False), "test": (5, 8, 500, True)}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {a: column(in_a, in_b, first, null), b: column(in_b, in_b, first + 100, False)}, features=images(a, b)
            )
            for split, (in_a, in_b, first, null) in sizes.items()
        }
    )


@pytest.mark.parametrize("how", ["parquet", "saved"])
def test_aligned_table_gives_the_true_counts(how, tmp_path):
    tables = aligned_tables()
    source, out = tmp_path / "table", tmp_path / "out"
    source.mkdir()
    if how == "parquet":
        for split, table in tables.items():
            table.to_parquet(source / f"{split}-00000-of-00001.parquet")
    else:
        tables.save_to_disk(source)
    environment = {"HF_HOME": str(tmp_path / "cache")}
    output = done(shard("--source", source, "--out", out, **environment))
    assert "hashing" in output and counts_of(out) == dict(zip(SPLITS, (20, 30, 5, 8), strict=True))
    assert counts_of(out, "found") == dict(zip(SPLITS, (30, 30, 5, 8), strict=True))
    dropped = counts_of(out, "dropped")
    assert dropped["trainA"] == {"null": 0, "repeat": 10, "not_image": 0, "unsafe": 0}
    assert dropped["testA"] == {"null": 3, "repeat": 0, "not_image": 0, "unsafe": 0}
    (entry,) = manifest_of(out)["splits"]["testA"]["shards"]
    stored = {sample["jpg"] for sample in webdataset.WebDataset(str(out / entry["name"]), shardshuffle=False)}
    assert stored == {noisy_jpeg(500 + i) for i in range(5)}
    assert "hashing" not in done(shard("--source", source, "--out", out, **environment))
    kept = done(shard("--source", source, "--out", tmp_path / "kept", "--keep-repeats", **environment))
    assert counts_of(tmp_path / "kept")["trainA"] == 30, kept


def test_columns_of_other_names(tmp_path):
    aligned_tables("photo", "painting").save_to_disk(tmp_path / "table")
    with pytest.raises(UserError, match=r"no imageA and imageB columns.*photo.*--columns"):
        open_source(None, tmp_path / "table")
    done(shard("--source", tmp_path / "table", "--out", tmp_path / "out", "--columns", "A=photo", "B=painting"))
    assert counts_of(tmp_path / "out") == dict(zip(SPLITS, (20, 30, 5, 8), strict=True))
    assert_refused(
        shard("--source", tmp_path / "table", "--out", tmp_path / "no", "--columns", "A=photo", "B=picture"),
        "no photo and picture columns",
    )


def test_labelled_table(tmp_path):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(SPLITS))})
    columns = {"image": cells(12), "label": [i % 4 for i in range(12)]}
    table = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(train=table).save_to_disk(tmp_path / "table")
    source = open_source(None, tmp_path / "table")
    found = listed(source)
    assert {split: len(items) for split, items in found.items()} == dict.fromkeys(SPLITS, 3)
    for number, split in enumerate(sorted(SPLITS)):
        assert [read("", item) for item in found[split]] == [noisy_jpeg(i) for i in range(number, 12, 4)]
        assert [item.size for item in found[split]] == [len(noisy_jpeg(i)) for i in range(number, 12, 4)]


def saved(path: Path, columns: dict, features, split: str | None = "train") -> Path:
    """A table as `save_to_disk` writes it: of one split, or with `split` None a table alone."""
    import datasets

    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (table if split is None else datasets.DatasetDict({split: table})).save_to_disk(path)
    return path


def labelled_parquet(path: Path, labels: list, images: list[bytes]) -> Path:
    """As other programs write it, whose columns say nothing of images."""
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"photo": images, "kind": labels}), path)
    return path


def test_labels_choose_the_domains_and_splits_stay(tmp_path):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cow", "horse", "mule"])}
    )
    tables = {
        split: datasets.Dataset.from_dict(
            {"image": cells(count, first), "label": [i % 3 for i in range(count)]}, features=features
        )
        for split, count, first in (("train", 12, 0), ("test", 6, 50))
    }
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "many")
    with pytest.raises(UserError, match=r"labels in label: cow, horse, mule; .*--label-a cow --label-b horse"):
        open_source(None, tmp_path / "many")
    with pytest.raises(UserError, match=r"mule and cow are labels in column label .*--label-a mule --label-b cow"):
        open_source(None, tmp_path / "many", (), ("A=mule", "B=cow"))
    with pytest.raises(
        UserError, match="no column with the labels dog and cow; its labels are label: cow, horse, mule"
    ):
        open_source(None, tmp_path / "many", labels=("dog", "cow"))
    output = done(
        shard("--source", tmp_path / "many", "--label-a", "mule", "--label-b", "0", "--out", tmp_path / "out")
    )
    assert counts_of(tmp_path / "out") == {"trainA": 4, "trainB": 4, "testA": 2, "testB": 2}
    assert "4 of other labels in train, 2 of other labels in test" in output
    found = listed(open_source(None, tmp_path / "many", labels=("mule", "0")))
    assert [read("", item) for item in found["trainA"]] == [noisy_jpeg(i) for i in range(2, 12, 3)]
    assert [read("", item) for item in found["testB"]] == [noisy_jpeg(50 + i) for i in range(0, 6, 3)]


@pytest.mark.parametrize(("labels", "given"), [(["h", "z", None, "h"], ("h", "z")), ([7, 8, 9, 7], ("7", "8"))])
def test_a_file_of_bytes_and_plain_labels(labels, given, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    images = [noisy_jpeg(i) for i in range(4)]
    source = open_source(None, labelled_parquet(tmp_path / "pets.parquet", labels, images), labels=given)
    found = listed(source)
    assert source.name == "pets" and sum(source.outside.values()) == 1
    assert {split: [read("", item) for item in items] for split, items in found.items()} == {
        "trainA": [images[0], images[3]], "trainB": [images[1]],
    }  # fmt: skip


def test_columns_of_raw_bytes_and_of_unmarked_images(tmp_path):
    import datasets

    images = [noisy_jpeg(i) for i in range(4)]
    kinds = {
        "bytes": (datasets.Value("binary"), images),
        "large": (datasets.Value("large_binary"), images),
        "unmarked": (
            {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            [{"bytes": image, "path": None} for image in images],
        ),
    }
    for name, (kind, values) in kinds.items():
        columns = {"imageA": values[:2], "imageB": values[2:]}
        # One split is for training, however it is called.
        path = saved(tmp_path / name, columns, {"imageA": kind, "imageB": kind}, "images")
        found = listed(open_source(None, path))
        assert [read("", item) for item in found["trainA"] + found["trainB"]] == images, name


def test_what_holds_no_images_is_told_in_one_line(tmp_path):
    import datasets

    array, numbers = datasets.Array3D((4, 4, 3), "uint8"), np.zeros((4, 4, 3), np.uint8)
    image = {"imageA": cells(1), "imageB": cells(1)}
    columns = {
        "url": (datasets.Value("string"), "https://e.invalid/1.jpg", ("text", "https://e.invalid/1.jpg")),
        "array": (array, numbers, ("arrays", "save them as image files")),
        "list": (datasets.List(datasets.Image()), cells(1), ("lists", "a row of each image")),
    }
    for name, (kind, value, words) in columns.items():
        saved(tmp_path / name, {"imageA": [value], "imageB": [value]}, {"imageA": kind, "imageB": kind})
        assert_refused(shard("--source", tmp_path / name), "column imageA", *words)
    both = {"imageA": datasets.Image(), "imageB": datasets.Image()}
    saved(tmp_path / "none", {"imageA": [], "imageB": []}, both)
    assert_refused(shard("--source", tmp_path / "none"), "is empty: it has no rows in train")
    tables = {split: datasets.Dataset.from_dict(image, features=datasets.Features(both)) for split in ("one", "two")}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "parts")
    assert_refused(shard("--source", tmp_path / "parts"), "splits one, two", "rename them to train and test")
    single = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["horse", "zebra"])}
    saved(tmp_path / "single", {"image": cells(2), "label": [0, 1]}, single, None)
    assert_refused(shard("--source", tmp_path / "single"), "--label-a horse --label-b zebra")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    assert_refused(shard("--source", tmp_path / "damaged.parquet"), "damaged.parquet", "Parquet")
    (tmp_path / "header.csv").write_text("imageA,imageB\n")
    assert_refused(shard("--source", tmp_path / "header.csv"), "it has no rows")


def test_options_of_tables_that_do_not_go_together(tmp_path):
    (tmp_path / "trainA").mkdir()
    source, label = ("--source", tmp_path), ("--label-a", "x")
    assert_refused(shard(*source, *label), "--label-a and --label-b go together")
    assert_refused(shard(*source, *label, "--label-b", "x"), "two different labels")
    assert_refused(shard(*source, *label, "--label-b", "y"), "only for tables")
    assert_refused(shard(*source, *label, "--label-b", "y", "--configs", "A=a", "B=b"), "cannot be combined")


def test_splits_of_our_names_and_a_split_for_each_domain(tmp_path):
    import datasets

    def save(name: str, **counts: int) -> Path:
        tables = {
            split: datasets.Dataset.from_dict({"image": cells(count, 100 * i)}, features=images("image"))
            for i, (split, count) in enumerate(counts.items())
        }
        datasets.DatasetDict(tables).save_to_disk(tmp_path / name)
        return tmp_path / name

    found = listed(open_source(None, save("ours", trainA=3, trainB=4, testB=2)))
    assert {split: len(items) for split, items in found.items()} == {"trainA": 3, "trainB": 4, "testB": 2}
    two = save("two", horse=3, zebra=4, mule=2)
    source = open_source(None, two, (), ("A=zebra", "B=horse"))
    found = listed(source)
    assert source.outside == {"in split mule": 2}
    assert {split: len(items) for split, items in found.items()} == {"trainA": 4, "trainB": 3}
    with pytest.raises(UserError, match=r"no configuration or split cow.*horse, mule, zebra"):
        open_source(None, two, (), ("A=zebra", "B=cow"))


def test_a_configuration_for_each_domain(tmp_path):
    import datasets

    source, configs = tmp_path / "pets", []
    for i, (config, sizes) in enumerate({"horse": {"train": 6, "test": 2}, "zebra": {"train": 5}}.items()):
        files = []
        for split, count in sizes.items():
            table = datasets.Dataset.from_dict(
                {"image": cells(count, 100 * i + 50 * (split == "test"))}, images("image")
            )
            table.to_parquet(source / config / f"{split}.parquet")
            files.append({"split": split, "path": f"{config}/{split}.parquet"})
        configs.append({"config_name": config, "data_files": files})
    (source / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")  # JSON is YAML, too
    environment, out = {"HF_HOME": str(tmp_path / "cache")}, tmp_path / "out"
    assert_refused(shard("--source", source, "--out", out, **environment), "--configs A=... B=...")
    done(shard("--source", source, "--out", out, "--configs", "A=horse", "B=zebra", **environment))
    assert counts_of(out) == {"trainA": 6, "trainB": 5, "testA": 2}
    assert_refused(
        shard("--source", source, "--out", out, "--configs", "A=horse", "B=mule", **environment), "mule", "zebra"
    )


def hub_is_there() -> bool:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {}])
@pytest.mark.parametrize("name", ["horse2zebra", "huggan/horse2zebra@0123456789abcdef"])
def test_without_network_the_error_names_the_folder_layout(name, environment, tmp_path):
    if not environment and hub_is_there():
        pytest.skip("the hub can be reached")
    started = time.monotonic()
    result = prep(name, "--out", tmp_path / "out", HF_HOME=str(tmp_path), **environment)
    assert_refused(result, "huggan/horse2zebra", "--source DIR with DIR/trainA, DIR/trainB and optionally DIR/testA")
    assert time.monotonic() - started < 20
    assert not (tmp_path / "out").exists()
