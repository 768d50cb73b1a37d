"""Tables of the `datasets` library, on the Hugging Face hub or on disk, read by cell without decoding."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from zorse.errors import UserError
from zorse_prep.folders import read_file
from zorse_prep.format import SPLITS
from zorse_prep.items import LAYOUT, Item, Source, none_dropped

HUB_TIMEOUT = 5  # seconds
PHASES = {"train": "train", "test": "test", "validation": "test"}


@dataclass(frozen=True)
class View:
    """A column of images of a table. Without a label column, the only label is None."""

    name: str
    table: object  # datasets.Dataset
    column: str
    splits: dict  # {label: our split}
    label: str = ""


def table_source(where: str, revision: str | None, columns: dict[str, str], configs: dict[str, str]) -> Source:
    """A table that `datasets.load_dataset` finds on the hub or in a local directory.

    Layouts: columns imageA and imageB in splits train and test, or those that `columns` names for A and B; an image
    column and a label column whose classes are trainA, trainB, testA, testB; an image column in splits of these names;
    or a configuration or a split for each of A and B, named by `configs`. In the first, the shorter domain is filled up
    with nulls or repeats. Raises UserError.
    """
    views = _views_of_configs(where, revision, configs) if configs else []
    if not configs:
        tables = _load(where, revision)
        for split, table in tables.items():
            views += _views(split, table, columns)
        if not views:
            found = {split: list(table.features) for split, table in tables.items()}
            wanted = " and ".join(columns.values()) if columns else "imageA and imageB"
            raise UserError(f"{where} has no {wanted} columns but {found}; name them with --columns, or give {LAYOUT}")
    local = Path(where).is_dir()
    uri = str(Path(where).resolve()) if local else f"hf://datasets/{where}"
    commit = None if local else _commit(views) or revision
    splits = {split for view in views for split in view.splits.values()}
    dropped = {split: none_dropped() for split in SPLITS if split in splits}
    return Source(Path(uri).name, "table" if local else "hub", uri, commit, "", _items(views, dropped), dropped)


def _load(where: str, revision: str | None, config: str | None = None) -> dict:
    """{split: datasets.Dataset}, from the disk, the hub, or the hub's cache. Raises UserError."""
    if not Path(where).is_dir() and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported; saves half a minute of retries
    import datasets

    datasets.utils.logging.set_verbosity_error()
    try:
        if (Path(where) / "dataset_dict.json").exists():
            return datasets.load_from_disk(where)
        return datasets.load_dataset(where, config, revision=revision)
    except Exception as error:  # `datasets` raises many kinds, of the network and of the table
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "name two of them with --configs A=... B=..., or " if "Config name is missing" in reason else ""
        raise UserError(f"cannot load {where} ({reason}); {hint}give the images yourself: {LAYOUT}") from None


@lru_cache(1)
def _hub_answers() -> bool:
    try:
        urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _commit(views: list[View]) -> str | None:
    """The commit on the hub, which `datasets` keeps in the addresses of the files that it fetched."""
    for view in views:
        for address in view.table.info.download_checksums or {}:
            if "@" in address:
                return address.split("@")[1].split("/")[0]
    return None


def _views_of_configs(where: str, revision: str | None, configs: dict[str, str]) -> list[View]:
    """A configuration of the table for each domain, or else, where it has none of these names, a split."""
    known = set() if (Path(where) / "dataset_dict.json").exists() else _config_names(where, revision)
    if set(configs.values()) <= known:
        loaded = {domain: _load(where, revision, config) for domain, config in configs.items()}
        tables = [
            (f"{configs[domain]}/{split}", f"{PHASES[split]}{domain}", table)
            for domain, found in loaded.items()
            for split, table in found.items()
            if split in PHASES
        ]
    else:
        found = known if len(known) > 1 else _load(where, revision)
        missing = [name for name in configs.values() if name not in found]
        if missing:
            names = ", ".join(sorted(found))
            raise UserError(f"{where} has no configuration or split {missing[0]}, for --configs; it has {names}")
        tables = [(name, f"train{domain}", found[name]) for domain, name in configs.items()]
    views = []
    for name, split, table in tables:
        images = _image_names(table)
        if len(images) != 1:
            raise UserError(f"{name} of {where} has {len(images)} image columns, not one; give {LAYOUT}")
        views.append(View(name, table, images[0], {None: split}))
    return views


def _config_names(where: str, revision: str | None) -> set[str]:
    if not Path(where).is_dir() and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    try:
        return set(datasets.get_dataset_config_names(where, revision=revision))
    except Exception:  # what is wrong, loading it will say
        return set()


def _views(split: str, table, columns: dict[str, str]) -> list[View]:
    """The columns of one table which hold a domain or several."""
    columns = columns or {"A": "imageA", "B": "imageB"}
    features = table.features
    if all(column in features for column in columns.values()):
        phase = PHASES.get(split)
        return [View(split, table, columns[domain], {None: f"{phase}{domain}"}) for domain in "AB"] if phase else []
    images = _image_names(table)
    if len(images) != 1:
        return []
    if split in SPLITS:
        return [View(split, table, images[0], {None: split})]
    for name, feature in features.items():
        classes = getattr(feature, "names", [])
        if "trainA" in classes and "trainB" in classes:
            ours = {number: known for number, known in enumerate(classes) if known in SPLITS}
            return [View(split, table, images[0], ours, name)]
    return []


def _image_names(table) -> list[str]:
    return [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]


def _items(views: list[View], dropped: dict[str, dict[str, int]]) -> Iterator[Item]:
    """Every image cell of every view; only the lengths of the cells are read."""
    import pyarrow.compute

    for view in views:
        number = -1
        for file in view.table.cache_files:
            path = file["filename"]
            mtime_ns = Path(path).stat().st_mtime_ns
            table = _table(path)
            sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(table.column(view.column), "bytes"))
            for row, size in enumerate(_values(sizes)):
                number += 1
                split = view.splits.get(table.column(view.label)[row].as_py() if view.label else None)
                if split is None:
                    continue
                if size is None:
                    size = _size_of_file(path, view.column, row)
                if size is None:
                    dropped[split]["null"] += 1
                else:
                    name = f"{view.name}/{view.column}/{number:08d}"
                    yield Item(split, name, size, path, ["cell", view.column, row], mtime_ns)


def _values(column) -> Iterator:
    for chunk in column.chunks:
        yield from chunk.to_pylist()


def _size_of_file(path: str, column: str, row: int) -> int | None:
    """The size of the image file that a cell names instead of holding it; None for an empty cell."""
    cell = _table(path).column(column)[row].as_py()
    return Path(cell["path"]).stat().st_size if cell and cell["path"] else None


def read_cell(path: str, column: str, row: int, size: int) -> bytes:
    """The bytes of an image cell of an Arrow file; `size` bounds those of a file that the cell names."""
    cell = _table(path).column(column)[row].as_py()
    return cell["bytes"] if cell["bytes"] is not None else read_file(cell["path"], size)


@lru_cache(maxsize=8)
def _table(path: str):
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()  # pages of the file, not a copy
