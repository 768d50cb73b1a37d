"""What hospitals and their research write: NIfTI by nibabel, MetaImage and NRRD by SimpleITK; DICOM is in dicom.py.

Whether the numbers are all there is held against the header before they are read.
"""

import bz2
import io
import logging
import re
import tempfile
import zlib
from collections.abc import Sequence
from importlib import import_module
from math import prod
from pathlib import Path
from types import ModuleType

import numpy as np

from zorse.errors import UserError
from zorse_prep.pixels import BadImage
from zorse_prep.planes import MOST_BYTES, Layout, Planes, check_shape, planes_of

GZIP, NRRD, PAIR = b"\x1f\x8b", b"NRRD", (b"ni1\0", b"ni2\0")
DEFAULT_AXIS = 2  # of a volume: the axis from foot to head, as most are stored
MOST_HEADER = 10_000_000  # bytes before the numbers, NIfTI's extensions among them
CHUNK = 1 << 22
SHORT = "the file is truncated: its header tells of more numbers than it holds"
MHA_DATA = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*(\S*)[^\n]*\n", re.MULTILINE)
MHA_FIELD = re.compile(rb"^(\w+)[ \t]*=[ \t]*([^\r\n]*)", re.MULTILINE)
NRRD_DATA = re.compile(rb"\r?\n\r?\n")
NRRD_FIELD = re.compile(rb"^([a-z ]+):[ \t]*([^\r\n]*)", re.MULTILINE | re.IGNORECASE)


def import_reader(module: str, kind: str) -> ModuleType:
    """A package of the extra "medical", which is silent from then on. Raises UserError where it is not installed."""
    try:
        package = import_module(module)
    except ImportError:
        raise UserError(f"{kind} needs {module}, of the extra medical; run: pip install {module}") from None
    logging.getLogger(module).setLevel(logging.CRITICAL + 1)  # what it would tell is judged here
    return package


def is_nifti(data: bytes) -> bool:
    """Whether a file is a NIfTI of version 1 or 2, or packed by gzip, as nothing else that is read is."""
    return data[344:348] in (b"n+1\0", PAIR[0]) or data[4:8] in (b"n+2\0", PAIR[1]) or data.startswith(GZIP)


def read_nifti(data: bytes, channels: int | None, axis: int | None) -> Planes:
    """A .nii or .nii.gz, its slope and intercept applied, turned in no way."""
    image, data = open_nifti(data)
    proxy, shape = image.dataobj, image.header.get_data_shape()
    check_shape(shape, proxy.dtype.itemsize)
    if not 0 <= proxy.offset <= len(data) - prod(shape) * proxy.dtype.itemsize:
        raise OSError(SHORT)
    values, notes = np.frombuffer(data, proxy.dtype, prod(shape), proxy.offset), []
    is_colour = proxy.dtype.names is not None
    if (proxy.slope, proxy.inter) != (1, 0) and not is_colour:
        notes.append("rescaled")
        values = _scaled(values, proxy.slope, proxy.inter)
    if is_colour:  # bytes of red, green, blue and perhaps alpha in each voxel
        values = np.moveaxis(values.view(np.uint8).reshape((-1, *shape), order="F"), 0, -1)
    else:
        values = values.reshape(shape, order="F")
    return planes_of(values, nifti_layout(values.shape, is_colour, channels, axis), notes)


def _scaled(values: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Numbers [n] with slope and intercept, by parts, since each is computed with 64 bits."""
    if values.dtype.kind not in "iuf":
        return values  # which is refused
    scaled = np.empty(len(values), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite, which is told
        for start in range(0, len(values), CHUNK):
            part = values[start : start + CHUNK].astype(np.float64)
            scaled[start : start + CHUNK] = part * slope + intercept
    return scaled


def open_nifti(data: bytes):
    """nibabel's image, and the file, unpacked. Raises BadImage."""
    nibabel = import_reader("nibabel", "NIfTI")
    nibabel.imageglobals.logger.setLevel(logging.CRITICAL + 1)
    data = unpacked(data) if data.startswith(GZIP) else data
    if data[344:348] == PAIR[0] or data[4:8] == PAIR[1]:
        raise BadImage("a NIfTI header whose numbers lie in another file; store both as one .nii")
    if not is_nifti(data) or data.startswith(GZIP):
        raise BadImage("a gzip file that holds no NIfTI; unpack it")
    kind = nibabel.Nifti1Image if data[344:348] == b"n+1\0" else nibabel.Nifti2Image
    return kind.from_bytes(data), data


def nifti_layout(shape: Sequence[int], is_colour: bool, channels: int | None, axis: int | None) -> Layout:
    """The layout of a NIfTI's axes: three of space, time, and what a voxel holds. is_colour: with one more, at the end.

    The fourth axis holds channels where it has as many as the user says.
    """
    axes, among = list(range(len(shape))), ()
    is_told = channels is not None and channels > 1 and len(shape) == 4 and shape[3] == channels
    if is_colour or is_told or len(shape) == 5:
        among = (axes.pop(),)
    if len(axes) < 2:
        raise BadImage("a NIfTI of one axis, which is no image")
    if len(axes) == 2:
        return Layout((), among, axes[1], axes[0])
    cut = spatial_axis(axis)
    columns, rows = (number for number in range(3) if number != cut)  # x runs along a row, as in all other kinds
    return Layout((cut, *axes[3:]), among, rows, columns)


def spatial_axis(axis: int | None) -> int:
    """The one of a volume's three axes that it is cut along."""
    axis = DEFAULT_AXIS if axis is None else axis
    if not -3 <= axis <= 2:
        raise BadImage(f"a volume has no axis {axis}; give 0, 1 or 2")
    return axis % 3


def unpacked(data: bytes, wbits: int = 31) -> bytes:
    """What zlib has packed, all of it and never more than is read. Raises BadImage, zlib.error."""
    unpacker, found, most = zlib.decompressobj(wbits), io.BytesIO(), MOST_BYTES + MOST_HEADER
    while not unpacker.eof:
        if not (part := unpacker.decompress(data, CHUNK)):
            raise OSError("the file is truncated: its packed data has no end")
        found.write(part)
        data = unpacker.unconsumed_tail
        if found.tell() > most:
            raise BadImage(f"more than {most / 1e6:.0f} MB once it is unpacked")
    return found.getvalue()


# --- MetaImage and NRRD ---


def is_itk(data: bytes) -> bool:
    """Whether a file is a MetaImage or an NRRD."""
    return data.startswith(NRRD) or bool(re.match(rb"(ObjectType|NDims|Comment)[ \t]*=", data))


def read_itk(data: bytes, channels: int | None, axis: int | None) -> Planes:
    """A .mha or .nrrd. `axis` counts as the header does, in which the first axis is that of the columns."""
    image = open_itk(data)
    sitk = import_reader("SimpleITK", "this file")
    values = sitk.GetArrayFromImage(image)
    return planes_of(values, itk_layout(image, axis))


def itk_layout(image, axis: int | None) -> Layout:
    """The layout of SimpleITK's array, whose axes are those of the header in reverse, with its channels at the end."""
    dimensions = image.GetDimension()
    among = (dimensions,) if image.GetNumberOfComponentsPerPixel() > 1 else ()
    if dimensions == 2:
        return Layout((), among, 0, 1)
    cut = dimensions - 1 - spatial_axis(axis)
    rows, columns = (number for number in range(dimensions - 3, dimensions) if number != cut)
    return Layout(tuple(sorted((cut, *range(dimensions - 3)))), among, rows, columns)


def open_itk(data: bytes):
    """SimpleITK's image of a .mha or .nrrd, after the header is found to tell of what is there. Raises BadImage."""
    is_nrrd = data.startswith(NRRD)
    sitk = import_reader("SimpleITK", "NRRD" if is_nrrd else "MetaImage")
    packing, start = _nrrd_data(data) if is_nrrd else _mha_data(data)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder:  # it reads files alone
        path = Path(folder, "image.nrrd" if is_nrrd else "image.mha")
        path.write_bytes(data)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
            numbers = _checked_numbers(reader, sitk, data[start:], packing)
            image = reader.Execute()
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1].strip()) from None
    if not is_nrrd and not _are_same(sitk.GetArrayViewFromImage(image), numbers):  # it leaves out what it cannot read
        raise OSError("its numbers are damaged")
    return image


def _are_same(values: np.ndarray, numbers: bytes) -> bool:
    """Whether an array has these bytes, in either order of those of a number."""
    stored = np.frombuffer(numbers, values.dtype)
    mine = np.ascontiguousarray(values).reshape(-1)
    return any(np.array_equal(mine.view(np.uint8), other.view(np.uint8)) for other in (stored, stored.byteswap()))


def _checked_numbers(reader, sitk: ModuleType, data: bytes, packing: str) -> bytes:
    """The bytes of the numbers that a header tells of. Raises OSError where they are not there."""
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    item = int(bits[1]) // 8 if bits else 8
    shape = (*reader.GetSize(), reader.GetNumberOfComponents())
    check_shape(shape, item)
    if packing == "zlib":
        data = unpacked(data, 47)  # of zlib's own kind, or gzip's
    elif packing == "bzip2":
        data = bz2.BZ2Decompressor().decompress(data, prod(shape) * item)
    if len(data) < prod(shape) * item:
        raise OSError(SHORT)
    return data[: prod(shape) * item]


def _mha_data(data: bytes) -> tuple[str, int]:
    """How the numbers of a MetaImage are packed, and where they begin."""
    found = MHA_DATA.search(data[:MOST_HEADER])
    if found is None:
        raise OSError("the file is truncated: its header has no end")
    if found[1].upper() != b"LOCAL":
        raise BadImage("a MetaImage header whose numbers lie in another file; store both as one .mha")
    fields = {name: value.strip() for name, value in MHA_FIELD.findall(data[: found.start()])}
    sizes = fields.get(b"DimSize", b"").split()
    # Its reader would write what is wrong to the terminal.
    if not (b"ElementType" in fields and sizes and fields.get(b"NDims") == b"%d" % len(sizes)):
        raise OSError("its header is damaged")
    if fields.get(b"BinaryData", b"True").lower() == b"false" or b"HeaderSize" in fields:
        raise BadImage("a MetaImage of numbers in words or of a header of its own; store it as a binary .mha")
    is_packed = fields.get(b"CompressedData", b"").lower() == b"true"
    if int(fields.get(b"CompressedDataSize", 0)) > len(data) - found.end():
        raise OSError(SHORT)
    return ("zlib" if is_packed else "raw"), found.end()


def _nrrd_data(data: bytes) -> tuple[str, int]:
    """How the numbers of an NRRD are packed, and where they begin."""
    found = NRRD_DATA.search(data[:MOST_HEADER])
    if found is None:
        raise OSError("the file is truncated: its header has no end")
    fields = {name.lower(): value.strip().lower() for name, value in NRRD_FIELD.findall(data[: found.start()])}
    if b"data file" in fields or b"datafile" in fields:
        raise BadImage("an NRRD header whose numbers lie in another file; store both as one .nrrd")
    if any(name.replace(b" ", b"") in (b"byteskip", b"lineskip") and value != b"0" for name, value in fields.items()):
        raise BadImage("an NRRD whose numbers do not begin behind its header; store it anew")
    encoding = fields.get(b"encoding", b"").decode("ascii", "replace")
    packing = {"raw": "raw", "gzip": "zlib", "gz": "zlib", "bzip2": "bzip2", "bz2": "bzip2"}.get(encoding)
    if packing is None:
        raise BadImage(f"an NRRD encoded as '{encoding[:20]}'; store it as raw or gzip")
    return packing, found.end()
