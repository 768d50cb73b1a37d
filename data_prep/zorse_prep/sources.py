"""Where images come from: a folder, an archive, or a table of the `datasets` library."""

import difflib
import hashlib
from pathlib import Path

from zorse.errors import UserError
from zorse_prep.archives import archive_source, read_tar, read_zip
from zorse_prep.arrow_tables import is_table, read_cell, table_source
from zorse_prep.folders import domain_source, folder_source, read_file
from zorse_prep.hold_out import TEST_SHARE, hold_out
from zorse_prep.items import LARGEST, LAYOUT, Item, Source, Unreadable

KNOWN = (
    *("horse2zebra", "summer2winter_yosemite", "apple2orange", "iphone2dslr_flower", "maps", "facades", "cityscapes"),
    *("monet2photo", "cezanne2photo", "ukiyoe2photo", "vangogh2photo", "ae_photos"),
)
READERS = {"file": read_file, "tar": read_tar, "zip": read_zip, "cell": read_cell}  # by kind of place


def open_source(
    name: str | None,
    path: Path | None,
    columns: tuple[str, ...] = (),
    configs: tuple[str, ...] = (),
    labels: tuple[str | None, str | None] = (None, None),
    folders: dict[str, Path] | None = None,
    test_share: float | None = None,
) -> Source:
    """The source that the user named: a data set by `name`, or `path`, or folders by split. Raises UserError.

    columns, configs: of a table, as ("A=photo", "B=painting"). labels: of A and B, where a table's rows have labels.
    test_share: of the training images, to become test images; None holds out TEST_SHARE of a domain's folder that was
    given without one of test images, and nothing of other sources, which say themselves what is for testing.
    """
    if folders:
        if name is not None or path is not None:
            raise UserError("--a and --b are a source themselves; leave out the name and --source")
        source = domain_source(folders)
        without = "".join(domain for domain in "ab" if f"test{domain.upper()}" not in folders)
        share = TEST_SHARE if test_share is None else test_share
        return hold_out(source, share, "ab" if test_share else without) if share else source
    source = _named_source(name, path, columns, configs, labels)
    return hold_out(source, test_share) if test_share else source


def _named_source(
    name: str | None,
    path: Path | None,
    columns: tuple[str, ...],
    configs: tuple[str, ...],
    labels: tuple[str | None, str | None],
) -> Source:
    if (name is None) == (path is None):
        raise UserError(f"give a data set's name ({', '.join(KNOWN[:3])}, ...) or {LAYOUT}")
    names = _by_domain("--columns", columns), _by_domain("--configs", configs), _labels(labels)
    if sum(map(bool, names)) > 1:
        raise UserError("--columns, --configs and --label-a with --label-b cannot be combined; give one of the three")
    if path is None:
        return table_source(*_hub_name(name), *names)
    if not path.exists():
        raise UserError(f"--source {path} does not exist; give {LAYOUT}")
    if is_table(path):
        return table_source(str(path), None, *names)
    if any(names):
        given = "--columns" if columns else "--configs" if configs else "--label-a and --label-b"
        raise UserError(f"{given}: only for tables, and --source {path} is not one; leave them out")
    return folder_source(path) if path.is_dir() else archive_source(path)


def _hub_name(name: str) -> tuple[str, str | None]:
    """(OWNER/NAME, revision) of a name that the user gave."""
    if Path(name).exists() and name not in KNOWN:
        raise UserError(f"'{name}' is a {'folder' if Path(name).is_dir() else 'file'}: say --source {name}")
    name, _, revision = name.partition("@")
    if "/" not in name and name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, 1, cutoff=0)
        raise UserError(f"no data set is called '{name}'; the nearest is '{near[0]}'. For your own images: {LAYOUT}")
    return name if "/" in name else f"huggan/{name}", revision or None


def _by_domain(flag: str, pairs: tuple[str, ...]) -> dict[str, str]:
    """{"A": ..., "B": ...} from A=..., B=...; {} from nothing."""
    found = dict(pair.partition("=")[::2] for pair in pairs)
    if pairs and (set(found) != {"A", "B"} or len(pairs) != 2 or not all(found.values())):
        raise UserError(f"{flag} {' '.join(pairs)}: give {flag} A=... B=...")
    return found


def _labels(labels: tuple[str | None, str | None]) -> dict[str, str]:
    """{"A": ..., "B": ...}; {} from nothing."""
    a, b = labels
    if (a is None) != (b is None) or (a is not None and a == b):
        raise UserError("--label-a and --label-b go together; give two different labels")
    return {} if a is None else {"A": a, "B": b}


def read(root: str, item: Item) -> bytes:
    """The original bytes of an item. Raises Unreadable, and UserError where they changed since they were listed."""
    if item.size > LARGEST:
        raise Unreadable(f"larger than {LARGEST >> 20} MiB")
    path = str(Path(root, item.path))
    kind, *where = item.place or ("file",)
    try:
        data = READERS[kind](path, *where, item.size)
    except (FileNotFoundError, NotADirectoryError):
        raise _changed(root, item) from None
    if len(data) != item.size:
        raise _changed(root, item)
    return data


def read_planned(root: str, item: Item) -> bytes:
    """Like `read`; raises UserError, too, where the bytes are not those that were planned."""
    data = read(root, item)
    if hashlib.sha256(data).hexdigest() != item.sha256:
        raise _changed(root, item)
    return data


def _changed(root: str, item: Item) -> UserError:
    return UserError(
        f"{item.split}/{item.name} of {Path(root, item.path)} is no longer what the plan saw, or the plan is damaged; "
        "put it back, or, when the source is complete, plan again and add --restart"
    )
