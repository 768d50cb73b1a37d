"""Which columns and rows of a table of the `datasets` library hold the images of which split."""

from collections import Counter
from dataclasses import dataclass

from zorse.errors import UserError
from zorse_prep.format import SPLITS
from zorse_prep.items import LAYOUT

PHASES = {"train": "train", "test": "test", "validation": "test"}
BINARY = ("binary", "large_binary", "binary_view")
TEXT = ("string", "large_string", "string_view")
SHOWN = 8  # labels or columns that a message names
# What a column may hold instead of image files, by the type's name, and what to do about it.
OTHERS = {
    "text": "download the files that it names, and give them as folders",
    "arrays": "save them as image files first, e.g. as PNG",
    "lists": "make a row of each image first",
}


@dataclass(frozen=True)
class View:
    """A column of images of a table. Without a label column, the only label is None."""

    name: str
    table: object  # datasets.Dataset
    column: str
    splits: dict  # {label: our split}
    label: str = ""


def views_of(where: str, tables: dict, columns: dict[str, str], labels: dict[str, str]) -> list[View]:
    """The images of a table's splits, {name: datasets.Dataset}. Raises UserError where there are none, with the reason.

    columns, labels: what holds A and B, or {} for what a table of our own names holds.
    """
    if not any(len(table) for table in tables.values()):
        raise UserError(f"{where} is empty: it has no rows in {', '.join(tables)}")
    views = []
    for split, table in tables.items():
        phase = phase_of(split, tables)
        if labels and phase:
            views += _views_of_labels(where, split, phase, table, labels)
        elif not labels:
            views += _views_of_columns(where, split, phase, table, columns)
    if not views:
        raise UserError(_why_none(where, tables, columns))
    return views


def phase_of(split: str, tables: dict) -> str | None:
    """Whether a table's split is for training or testing. One that is alone is for training, however it is called."""
    return PHASES.get(split, "train" if len(tables) == 1 else None)


def unused(tables: dict, views: list[View]) -> Counter[str]:
    """The rows of splits that no view takes."""
    used = {view.name for view in views}
    return Counter(
        {f"in split {split}": len(table) for split, table in tables.items() if split not in used and len(table)}
    )


def only_images(where: str, name: str, table) -> str:
    """The one column of images. Raises UserError where there are several, or none."""
    images = image_columns(table)
    if len(images) > 1:
        raise UserError(f"{name} of {where} has {len(images)} columns of images, {', '.join(images)}; keep one alone")
    if not images:
        raise UserError(f"{name} of {where} has no column of image files but {_columns(table)}; give {LAYOUT}")
    return images[0]


def image_columns(table) -> list[str]:
    """The columns of image files: those which say so, or else those of bytes."""
    images = [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]
    return images or [name for name, feature in table.features.items() if holds(feature) == "images"]


def holds(feature) -> str:
    """What a column of this type holds, in a word: images where its cells may be image files."""
    kind, dtype = type(feature).__name__, getattr(feature, "dtype", "")
    if kind == "Image" or dtype in BINARY or (isinstance(feature, dict) and holds(feature.get("bytes")) == "images"):
        return "images"
    if kind == "ClassLabel":
        return "labels"
    if dtype in TEXT:
        return "text"
    return (
        "arrays"
        if kind.startswith("Array")
        else "lists"
        if kind in ("List", "LargeList", "Sequence", "list")
        else dtype or kind
    )


def labels_of(table, column: str) -> list:
    """The labels of a column as one may name them: its classes, or else the values in it."""
    found = getattr(table.features[column], "names", None) or table.unique(column)
    return [label for label in found if label is not None]


def label_columns(table) -> list[str]:
    """The columns of classes, or else of text or whole numbers, each of which may be a label."""
    classes = [name for name, feature in table.features.items() if holds(feature) == "labels"]
    plain = [name for name, feature in table.features.items() if holds(feature) == "text" or _is_whole(feature)]
    return classes or plain


def _is_whole(feature) -> bool:
    return getattr(feature, "dtype", "").startswith(("int", "uint"))


def _columns(table) -> str:
    found = [f"{name} ({holds(feature)})" for name, feature in table.features.items()]
    return ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")


def _views_of_labels(where: str, split: str, phase: str, table, labels: dict[str, str]) -> list[View]:
    """The rows of one image column whose labels are those of A and B."""
    column, found = only_images(where, split, table), {}
    for name in label_columns(table):
        values = {domain: _value(table, name, label) for domain, label in labels.items()}
        if None not in values.values():
            found[name] = {value: f"{phase}{domain}" for domain, value in values.items()}
    if len(found) == 1:
        return [View(split, table, column, splits, name) for name, splits in found.items()]
    if found:
        raise UserError(f"{split} of {where} has these labels in {' and '.join(found)}; give names that only one has")
    there = {name: labels_of(table, name) for name in label_columns(table)}
    shown = "; ".join(f"{name}: {', '.join(map(str, found[:SHOWN]))}" for name, found in there.items())
    wanted = f"{labels['A']} and {labels['B']}"
    raise UserError(f"{split} of {where} has no column with the labels {wanted}; its labels are {shown or 'none'}")


def _value(table, column: str, label: str):
    """How a column holds a label that the user named or numbered; None where it has no such label."""
    names = getattr(table.features[column], "names", None)
    if names is not None:
        number = int(label) if label.isdecimal() else -1
        return names.index(label) if label in names else number if 0 <= number < len(names) else None
    value = int(label) if _is_whole(table.features[column]) and label.isdecimal() else label
    return value if value in table.unique(column) else None


def _views_of_columns(where: str, split: str, phase: str | None, table, columns: dict[str, str]) -> list[View]:
    """The columns of one table which hold a domain or several."""
    columns = columns or {"A": "imageA", "B": "imageB"}
    features = table.features
    if all(column in features for column in columns.values()):
        for column in columns.values():
            _check_images(where, table, column)
        return [View(split, table, columns[domain], {None: f"{phase}{domain}"}) for domain in "AB"] if phase else []
    images = image_columns(table)
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


def _check_images(where: str, table, column: str) -> None:
    """Raise UserError where a column that should hold image files holds something else."""
    kind = holds(table.features[column])
    if kind != "images":
        first = table[0][column] if kind == "text" and len(table) else None
        example = f", such as {first[:100]!r}" if isinstance(first, str) else ""
        fix = OTHERS.get(kind, "give a column of images")
        raise UserError(f"column {column} of {where} holds {kind}{example}, not image files; {fix}: {LAYOUT}")


def _why_none(where: str, tables: dict, columns: dict[str, str]) -> str:
    """Why no split holds what is asked for, and what to do."""
    wanted = list((columns or {"A": "imageA", "B": "imageB"}).values())
    table = max(tables.values(), key=len)
    images, labels = image_columns(table), label_columns(table)
    if all(column in table.features for column in wanted):
        return f"{where} has the splits {', '.join(tables)}, and none is called train; rename them to train and test"
    if len(images) == 1 and not columns and labels:
        names = labels_of(table, labels[0])[:SHOWN]
        which = (
            f"--label-a {names[0]} --label-b {names[min(1, len(names) - 1)]}"
            if len(names) > 1
            else "--label-a, --label-b"
        )
        return (
            f"{where} has one column of images, {images[0]}, and labels in {', '.join(labels)}: "
            f"{', '.join(map(str, names))}; say which are A and B, e.g. {which}"
        )
    if not images and not columns:
        return f"{where} has no column of image files but {_columns(table)}; give {LAYOUT}"
    found = "; ".join(f"{split}: {_columns(table)}" for split, table in tables.items())
    return f"{where} has no {' and '.join(wanted)} columns but {found}; name them with --columns, or give {LAYOUT}"
