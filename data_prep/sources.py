"""Where images come from: a folder, or a table of the `datasets` library (on the Hugging Face hub or on disk).

A source is a list of items per split. An item says where its bytes lie and is cheap to send to another process;
`read(item)` fetches the bytes.
"""

import difflib
import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from data_prep import PrepError

SPLITS = ("trainA", "trainB", "testA", "testB")
LAYOUT = "--source DIR with DIR/trainA, DIR/trainB and optionally DIR/testA, DIR/testB"
KNOWN = (
    *("horse2zebra", "summer2winter_yosemite", "apple2orange", "iphone2dslr_flower", "maps", "facades", "cityscapes"),
    *("monet2photo", "cezanne2photo", "ukiyoe2photo", "vangogh2photo", "ae_photos"),
)
# HEIC and AVIF stay in, to be judged as unreadable rather than left out in silence.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"),
    *(".heic", ".heif", ".avif"),
)
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6")
HUB_TIMEOUT = 5  # seconds


@dataclass(frozen=True)
class Item:
    """One input image. `path` is the image file, or an Arrow file whose `column` holds it at `row`."""

    split: str
    name: str  # relative and unique within the split; fixes the order, never the machine's path
    size: int  # bytes
    path: str
    row: int = -1
    column: str = ""


@dataclass(frozen=True)
class Source:
    """Items per split, in a fixed order, and how many inputs were left out: `dropped[split][why]`."""

    name: str
    kind: str
    uri: str
    revision: str | None
    items: dict[str, list[Item]]
    dropped: dict[str, dict[str, int]]


def open_source(name: str | None, directory: Path | None) -> Source:
    """The source that the user named: a data set by `name`, or else `directory`. Raises PrepError."""
    if (name is None) == (directory is None):
        raise PrepError(f"give a data set's name ({', '.join(KNOWN[:3])}, ...) or {LAYOUT}, one of the two")
    if directory is not None:
        return directory_source(directory)
    if Path(name).is_dir() and name not in KNOWN:
        raise PrepError(f"'{name}' is a folder: say --source {name}")
    if "/" not in name and name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, 1, cutoff=0)
        raise PrepError(f"no data set is called '{name}'; the nearest is '{near[0]}'. For your own images: {LAYOUT}")
    return hub_source(name if "/" in name else f"huggan/{name}")


def directory_source(directory: Path) -> Source:
    """A directory of image folders or, where there is no trainA, of Parquet or saved Arrow tables."""
    if not directory.is_dir():
        what = "is not a folder" if directory.exists() else "does not exist"
        raise PrepError(f"--source {directory} {what}; give {LAYOUT}")
    is_table = (directory / "dataset_dict.json").exists() or any(directory.rglob("*.parquet"))
    if is_table and not (directory / "trainA").is_dir():
        return hub_source(str(directory))
    return folder_source(directory)


def folder_source(directory: Path) -> Source:
    """Images in DIR/trainA, DIR/trainB, DIR/testA, DIR/testB and below; files that are no images are counted."""
    items, dropped = {}, {}
    for split in SPLITS:
        folder = directory / split
        if not folder.is_dir():
            if split.startswith("train"):
                raise PrepError(f"{directory} has no folder {split}; give {LAYOUT}")
            continue
        files = _files_below(folder)
        images = [path for path in files if _looks_like_image(path)]
        items[split] = [Item(split, str(path.relative_to(folder)), path.stat().st_size, str(path)) for path in images]
        dropped[split] = {"null": 0, "repeat": 0, "not_image": len(files) - len(images)}
    source = Source(directory.resolve().name, "folder", str(directory.resolve()), None, items, dropped)
    return _with_train_images(source)


def _files_below(folder: Path) -> list[Path]:
    """All files, links to folders followed once, sorted by the bytes of their path."""
    found, visited = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(here) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(here))
        found += [Path(here, file) for file in files]
    return sorted(found, key=os.fsencode)


def _looks_like_image(path: Path) -> bool:
    if path.name.startswith("."):  # .DS_Store, and macOS's ._photo.jpg, which holds no photo
        return False
    if path.suffix.lower() in EXTENSIONS:
        return True
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def hub_source(path_or_hub_id: str) -> Source:
    """A table that `datasets.load_dataset` finds on the hub or in a local directory.

    Layouts: columns imageA and imageB in splits train and test; an image column and a label column whose classes
    are trainA, trainB, testA, testB; or an image column in splits of these names. In the first, the shorter domain
    is filled up with nulls or repeats, so both are dropped and counted.
    """
    tables = _load(path_or_hub_id)
    items = {split: [] for split in SPLITS}
    dropped = {split: {"null": 0, "repeat": 0, "not_image": 0} for split in SPLITS}
    seen = set()
    for item, data in _cells(tables):
        key = item.split, data and hashlib.sha256(data).digest()
        if data is None or key in seen:
            dropped[item.split]["null" if data is None else "repeat"] += 1
        else:
            seen.add(key)
            items[item.split].append(replace(item, size=len(data)))
    items = {split: found for split, found in items.items() if found}
    if not items:
        columns = {split: list(table.features) for split, table in tables.items()}
        raise PrepError(f"{path_or_hub_id} has no imageA and imageB columns but {columns}; give {LAYOUT}")
    local = Path(path_or_hub_id).is_dir()
    uri = str(Path(path_or_hub_id).resolve()) if local else f"hf://datasets/{path_or_hub_id}"
    revision = None if local else _revision(tables)
    kept = {split: dropped[split] for split in items}
    return _with_train_images(Source(Path(uri).name, "table" if local else "hub", uri, revision, items, kept))


def _load(path_or_hub_id: str) -> dict:
    """{split: datasets.Dataset}, from the disk, the hub, or the hub's cache. Raises PrepError."""
    local = Path(path_or_hub_id).is_dir()
    if not local and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported; saves half a minute of retries
    import datasets

    datasets.utils.logging.set_verbosity_error()
    try:
        if (Path(path_or_hub_id) / "dataset_dict.json").exists():
            return datasets.load_from_disk(path_or_hub_id)
        return datasets.load_dataset(path_or_hub_id)
    except Exception as error:  # `datasets` raises many kinds, of the network and of the table
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PrepError(f"cannot load {path_or_hub_id} ({reason}); give the images yourself: {LAYOUT}") from None


def _hub_answers() -> bool:
    try:
        urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _revision(tables: dict) -> str | None:
    """The commit on the hub, which `datasets` keeps in the addresses of the files that it fetched."""
    for table in tables.values():
        for address in table.info.download_checksums or {}:
            if "@" in address:
                return address.split("@")[1].split("/")[0]
    return None


def _cells(tables: dict):
    """(item, its bytes or None) for every image cell of every table, in order."""
    for hub_split, table in tables.items():
        for column, label, split_of in _image_columns(hub_split, table.features):
            number = -1
            for file in table.cache_files:
                path = file["filename"]
                for row in range(_table(path).num_rows):
                    number += 1
                    split = split_of.get(_table(path).column(label)[row].as_py() if label else None)
                    if split is not None:
                        item = Item(split, f"{hub_split}/{column}/{number:08d}", 0, path, row, column)
                        yield item, _read_cell(item)


def _image_columns(hub_split: str, features: dict) -> list[tuple[str, str, dict]]:
    """(image column, label column or "", {label: our split}); without a label column the only label is None."""
    if "imageA" in features and "imageB" in features:
        phase = {"train": "train", "test": "test", "validation": "test"}.get(hub_split)
        return [(f"image{domain}", "", {None: f"{phase}{domain}"}) for domain in "AB"] if phase else []
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if len(images) != 1:
        return []
    if hub_split in SPLITS:
        return [(images[0], "", {None: hub_split})]
    for name, feature in features.items():
        classes = getattr(feature, "names", [])
        if "trainA" in classes and "trainB" in classes:
            return [(images[0], name, {i: split for i, split in enumerate(classes) if split in SPLITS})]
    return []


@lru_cache(maxsize=8)
def _table(path: str):
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()  # pages of the file, not a copy


def _read_cell(item: Item) -> bytes | None:
    cell = _table(item.path).column(item.column)[item.row].as_py()
    if cell is None or cell["bytes"] is not None:
        return cell and cell["bytes"]
    return Path(cell["path"]).read_bytes() if cell["path"] else None


def read(item: Item) -> bytes:
    """The original bytes of an item. Raises PrepError where they changed since the source was listed."""
    data = _read_cell(item) if item.column else Path(item.path).read_bytes()
    if len(data) != item.size:
        raise PrepError(f"{item.path} changed while it was read; run the same command again when it is complete")
    return data


def _with_train_images(source: Source) -> Source:
    for split in ("trainA", "trainB"):
        if not source.items.get(split):
            raise PrepError(f"{split} of {source.uri} holds no images; give {LAYOUT}")
    return source
