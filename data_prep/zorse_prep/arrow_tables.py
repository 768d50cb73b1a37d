"""Tables of the `datasets` library, on the Hugging Face hub or on disk, read by cell without decoding."""

import os
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import repeat
from pathlib import Path

from zorse.errors import UserError
from zorse.files import load_json
from zorse_prep.folders import read_file
from zorse_prep.format import SPLITS
from zorse_prep.items import LAYOUT, Item, Source, none_dropped
from zorse_prep.table_layout import PHASES, View, label_columns, labels_of, only_images, unused, views_of

HUB_TIMEOUT = 5  # seconds
PACKAGED = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json"}  # by ending


def is_table(path: Path) -> bool:
    """Whether a file or folder is a table, or holds one and no folder of images."""
    if not path.is_dir() or is_saved(path):
        return path.is_dir() or path.suffix.lower() in PACKAGED
    here = list(path.iterdir())
    if any(entry.name.lower() == "traina" for entry in here):
        return False
    deep = (any(path.rglob(f"*{ending}")) for ending in (".parquet", ".arrow"))
    return any(entry.suffix.lower() in PACKAGED for entry in here) or any(deep)


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`; its splits are folders."""
    return (path / "dataset_dict.json").exists() or all(
        (path / name).exists()
        for name in ("dataset_info.json", "state.json")  # of one split
    )


def table_source(
    where: str, revision: str | None, columns: dict[str, str], configs: dict[str, str], labels: dict[str, str]
) -> Source:
    """A table that `datasets.load_dataset` finds on the hub or in a local file or directory.

    Layouts: columns imageA and imageB in splits train and test, or those that `columns` names for A and B; an image
    column and a label column whose classes are trainA, trainB, testA, testB, or those that `labels` names for A and B;
    an image column in splits of these names; or a configuration or a split for each of A and B, named by `configs`. In
    the first, the shorter domain is filled up with nulls or repeats. Raises UserError.
    """
    if configs:
        views, outside = _views_of_configs(where, revision, configs)
    else:
        tables = _load(where, revision)
        views = views_of(where, tables, columns, labels)
        outside = unused(tables, views)
    local = Path(where).exists()
    uri = str(Path(where).resolve()) if local else f"hf://datasets/{where}"
    commit = None if local else _commit(views) or revision
    splits = {split for view in views for split in view.splits.values()}
    dropped = {split: none_dropped() for split in SPLITS if split in splits}
    items = _items(views, dropped, outside)
    name = Path(uri).stem if Path(where).is_file() else Path(uri).name
    return Source(name, "table" if local else "hub", uri, commit, "", items, dropped, outside)


def _load(where: str, revision: str | None, config: str | None = None) -> dict:
    """{split: datasets.Dataset}, from the disk, the hub, or the hub's cache. Raises UserError."""
    if not Path(where).exists() and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when `datasets` is imported; saves half a minute of retries
    import datasets

    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # what is wrong is said below
    if Path(where).exists():  # what is on the disk is read in a moment
        datasets.disable_progress_bars()
    try:
        if is_saved(Path(where)):
            return _load_saved(Path(where))
        if Path(where).is_file():
            return datasets.load_dataset(PACKAGED[Path(where).suffix.lower()], data_files=where)
        return datasets.load_dataset(where, config, revision=revision)
    except UserError:
        raise
    except Exception as error:  # `datasets` raises many kinds, of the network and of the table
        while error.__cause__ is not None:  # "An error occurred while generating the dataset", for one
            error = error.__cause__
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if reason.endswith("corresponds to no data!"):
            reason = "it has no rows"
        hint = "name two of them with --configs A=... B=..., or " if "Config name is missing" in reason else ""
        raise UserError(f"cannot load {where} ({reason}); {hint}give the images yourself: {LAYOUT}") from None


def _load_saved(folder: Path) -> dict:
    """The splits that save_to_disk wrote; one without rows, which `datasets` cannot read back, is left out."""
    import datasets

    names = (load_json(folder / "dataset_dict.json") or {}).get("splits")
    splits = {None: folder} if names is None else {name: folder / name for name in names}
    full = {
        name: path for name, path in splits.items() if (load_json(path / "state.json") or {}).get("_data_files", True)
    }
    if not full:
        raise UserError(f"{folder} is empty: it has no rows{' in ' + ', '.join(names) if names else ''}")
    tables = {name: datasets.load_from_disk(str(path)) for name, path in full.items()}
    return {name or str(table.split or "train"): table for name, table in tables.items()}


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


def _views_of_configs(where: str, revision: str | None, configs: dict[str, str]) -> tuple[list[View], Counter[str]]:
    """A configuration of the table for each domain, or else, where it has none of these names, a split; and the rows of
    splits that are not used."""
    known = set() if is_saved(Path(where)) or Path(where).is_file() else _config_names(where, revision)
    if set(configs.values()) <= known:
        loaded = [
            (domain, split, f"{config}/{split}", table)
            for domain, config in configs.items()
            for split, table in _load(where, revision, config).items()
        ]
        everything = {name: table for _, _, name, table in loaded}
        tables = [(name, f"{PHASES[split]}{domain}", table) for domain, split, name, table in loaded if split in PHASES]
    else:
        found = known if len(known) > 1 else _load(where, revision)
        missing = [name for name in configs.values() if name not in found]
        if missing:
            if not isinstance(found, set):
                _refuse_labels(where, found, configs)
            names = ", ".join(sorted(found))
            raise UserError(f"{where} has no configuration or split {missing[0]}, for --configs; it has {names}")
        everything = found
        tables = [(name, f"train{domain}", found[name]) for domain, name in configs.items()]
    views = [View(name, table, only_images(where, name, table), {None: split}) for name, split, table in tables]
    return views, unused(everything, views)


def _refuse_labels(where: str, tables: dict, configs: dict[str, str]) -> None:
    """Raise UserError where the names given as configurations are labels."""
    for table in tables.values():
        for column in label_columns(table):
            if set(configs.values()) <= set(labels_of(table, column)):
                fix = f"--label-a {configs['A']} --label-b {configs['B']}"
                raise UserError(f"{' and '.join(configs.values())} are labels in column {column} of {where}: say {fix}")


def _config_names(where: str, revision: str | None) -> set[str]:
    if not Path(where).exists() and not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    try:
        return set(datasets.get_dataset_config_names(where, revision=revision))
    except Exception:  # what is wrong, loading it will say
        return set()


def _items(views: list[View], dropped: dict[str, Counter[str]], outside: Counter[str]) -> Iterator[Item]:
    """Every image cell of every view; only the lengths of the cells are read. Rows of other labels go to `outside`."""
    for view in views:
        number = -1
        for file in view.table.cache_files:
            path = file["filename"]
            mtime_ns = Path(path).stat().st_mtime_ns
            table = _table(path)
            sizes = _values(_sizes(table.column(view.column)))
            labels = _values(table.column(view.label)) if view.label else repeat(None)
            for row, (size, label) in enumerate(zip(sizes, labels, strict=False)):
                number += 1
                split = view.splits.get(label)
                if split is None:
                    outside[f"of other labels in {view.name}"] += 1
                    continue
                if size is None:
                    size = _size_of_file(path, view.column, row)
                if size is None:
                    dropped[split]["null"] += 1
                else:
                    name = f"{view.name}/{view.column}/{number:08d}"
                    yield Item(split, name, size, path, ["cell", view.column, row], mtime_ns)


def _sizes(column):
    """The length of each cell in bytes, null where it holds none itself."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_struct(column.type):
        column = pyarrow.compute.struct_field(column, "bytes")
    return pyarrow.compute.binary_length(column)


def _values(column) -> Iterator:
    for chunk in column.chunks:
        yield from chunk.to_pylist()


def _size_of_file(path: str, column: str, row: int) -> int | None:
    """The size of the image file that a cell names instead of holding it; None for an empty cell."""
    cell = _table(path).column(column)[row].as_py()
    if not isinstance(cell, dict) or not cell.get("path"):
        return None
    if "://" in cell["path"]:
        raise UserError(f"column {column} names its images by URL ({cell['path']}); download them, and give {LAYOUT}")
    return Path(cell["path"]).stat().st_size


def read_cell(path: str, column: str, row: int, size: int) -> bytes:
    """The bytes of an image cell of an Arrow file; `size` bounds those of a file that the cell names."""
    cell = _table(path).column(column)[row].as_py()
    data = cell["bytes"] if isinstance(cell, dict) else cell
    return data if data is not None else read_file(cell["path"], size)


@lru_cache(maxsize=8)
def _table(path: str):
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()  # pages of the file, not a copy
