"""What a source consists of: items, each one input image that says where its bytes lie."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

LAYOUT = (
    "--a DIR --b DIR, a folder of images for each domain, or --source DIR with DIR/trainA, DIR/trainB and optionally "
    "DIR/testA, DIR/testB"
)
LARGEST = 256 << 20  # bytes of one image file; what is larger is no photograph, and is not read
# Kinds of images that are not read stay in, to be judged as such rather than left out in silence.
PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"),
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".psd", ".psb", ".exr"),
)
OF_NUMBERS = (".npy", ".npz", ".nii", ".nii.gz", ".dcm", ".ima", ".mha", ".nrrd", ".h5", ".hdf5")
EXTENSIONS = PHOTOGRAPHS + OF_NUMBERS
MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P5", b"P6"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"8BPS", b"v/1\x01"),
    *(b"\xff\x0a", b"\x93NUMPY", b"NRRD000", b"ObjectType = Image", b"\x89HDF\r\n\x1a\n"),
)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # first bytes; the last two are of files that may pass 4 GB
HEAD = 132  # bytes by which a kind is told; those of DICOM, whose files often have no ending, come last

# Where the first bytes lie of images of other kinds, which bytes, and what they are.
OTHERS = (  # that are not read
    (0, b"8BPS", "a Photoshop file"), (0, b"v/1\x01", "an OpenEXR image"), (4, b"ftypcrx", "a camera's raw file"),
    (0, b"SIMPLE  =", "a FITS file"),
)  # fmt: skip
NUMBERS = (  # that are read as numbers, by arrays.py
    (0, b"\x93NUMPY", "a NumPy array"), (128, b"DICM", "a DICOM file"), (344, b"n+1\0", "a NIfTI file"),
    (4, b"n+2\0", "a NIfTI file"),
    (0, b"\x08\0\5\0", "a DICOM file"), (0, b"\x08\0\x08\0", "a DICOM file"),
    (0, b"NRRD000", "an NRRD file"), (0, b"ObjectType", "a MetaImage"),
    (0, b"NDims", "a MetaImage"), (0, b"PK\x03\x04", "a zip archive, as .npz is"),
    (0, b"\x1f\x8b", "a gzip file, as .nii.gz is"),
)  # fmt: skip
NO_WHITE = "numbers without a known white; give --range-a/--range-b LOW HIGH, or --range-a/--range-b percentiles"
HDF5, ZIP, IN_ZARR = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", (b".zarray", b".zgroup", b"zarr.json", b".zattrs")


# Folders in which systems keep thumbnails, metadata, and what was deleted; in lower case.
SYSTEM_FOLDERS = {
    *("__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "@tmp", "~snapshot"),
    *("$recycle.bin", "recycler", "recycled", "system volume information", "lost+found", "network trash folder"),
    "temporary items",
}


class Unreadable(Exception):
    """The bytes of an item cannot be had, now or later; the message is the reason."""


@dataclass(frozen=True)
class Item:
    """One input image. Its bytes lie in the file `path` (relative to the source's root), there at `place`."""

    split: str
    name: str  # relative and unique within the split; fixes the order, never the machine's path
    size: int  # bytes
    path: str
    place: list | None = None  # None: the whole file; or ["tar", offset], ["zip", number], ["cell", column, row]
    mtime_ns: int = 0
    sha256: str = ""  # of the bytes, from the plan; "" for what cannot be read


@dataclass(frozen=True)
class Source:
    """Images of up to four splits, listed once by going through `items`, in any order.

    dropped[split][why] counts what is left out, outside[where] what belongs to no split at all, and held_out[split]
    the training images that became test images. All are complete when `items` has ended.
    """

    name: str
    kind: str
    uri: str
    revision: str | None
    root: str
    items: Iterator[Item]
    dropped: dict[str, Counter[str]]
    outside: Counter[str] = field(default_factory=Counter)
    held_out: Counter[str] = field(default_factory=Counter)


def none_dropped() -> Counter[str]:
    """Counts of empty cells, repeats, files that are not images, and links, devices and names that lead elsewhere.

    Where there are any, also of hidden files, of encrypted ones, and of those that a later one of their name replaces.
    """
    return Counter(null=0, repeat=0, not_image=0, unsafe=0)


def in_words(counts: dict[str, int]) -> str:
    """Counts of what was left out or converted, as a person reads them; "-" for none."""
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "-"


def is_system(folder: str) -> bool:
    """Whether a folder of this name is no user's: a system's or a program's, whatever may lie in it."""
    return folder.lower() in SYSTEM_FOLDERS or folder.lower().startswith((".trash", ".ipynb_checkpoints"))


def is_hidden(parts: Sequence[str]) -> bool:
    """Whether a file is hidden, or lies in a hidden folder or a system's, by the parts of its path."""
    return any(part.startswith(".") or is_system(part) for part in parts)


def looks_like_image(name: str, head) -> bool:
    """Whether a file is an image, by its extension or else by its first bytes, which `head()` reads."""
    if name.lower().endswith(EXTENSIONS):
        return True
    first = head()
    is_webp, is_dicom = first[:4] == b"RIFF" and first[8:12] == b"WEBP", first[128:132] == b"DICM"
    return first.startswith(MAGIC) or is_webp or is_dicom


def what_else(data: bytes) -> str | None:
    """What an image is that is not read as a photograph, and what to do; None where this is not known."""
    if name := _named(data, OTHERS):
        return f"{name}, which is not read; convert it to PNG or JPEG"
    if line := convert_line(data):
        return line
    return (name := _named(data, NUMBERS)) and f"{name}: {NO_WHITE}"


def _named(data: bytes, kinds: Sequence[tuple[int, bytes, str]]) -> str | None:
    return next((name for start, first, name in kinds if data.startswith(first, start)), None)


def convert_line(data: bytes) -> str | None:
    """For a store of many arrays, the line that makes a .npy of one of them; None for all other files."""
    if data.startswith(HDF5):
        name, package, array = "an HDF5 file", "h5py", "h5py.File('X.h5')['NAME'][:]"
    elif data.startswith(ZIP) and any(part in data[:1024] for part in IN_ZARR):
        name, package, array = "a Zarr store", "zarr", "zarr.open('X.zip')['0'][:]"
    else:
        return None
    return _not_read(name, package, array)


def zarr_folder(parts: Sequence[str]) -> str | None:
    """The line that makes a .npy of a Zarr store, where a file lies in one by the parts of its path."""
    store = next((part for part in parts[:-1] if part.lower().endswith(".zarr")), None)
    return store and f"{store} is " + _not_read("a Zarr store", "zarr", "zarr.open('X.zarr')['0'][:]")


def _not_read(name: str, package: str, array: str) -> str:
    line = f"import numpy, {package}; numpy.save('X.npy', {array})"
    return f'{name}, which is not read; convert it: python -c "{line}"'
