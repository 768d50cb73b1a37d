"""Files of numbers as images: of microscopes, satellites, scanners and NumPy, and photographs without their colour.

What a file is, its first bytes say. NumPy's files and photographs are read here, TIFF in tiff_arrays.py, and what
hospitals write in medical.py and dicom.py.
"""

import io
import zipfile
from collections.abc import Callable

import numpy as np
from PIL import Image

from zorse_prep.items import TIFF, ZIP, convert_line
from zorse_prep.pictures import bits_of_jpeg2000, load_picture, open_picture, reasons
from zorse_prep.pixels import BadImage, to_srgb
from zorse_prep.planes import MOST_BYTES, Layout, Planes, check_shape, layout_of, planes_of

NPY = b"\x93NUMPY"
PICTURE = Layout((), (2,), 0, 1)
LARGEST_HEADER = 100_000  # bytes of a .npy's


def read_planes(data: bytes, channels: int | None = None, axis: int | None = None) -> Planes:
    """Read one file as images of numbers.

    data: the whole file; its name plays no part. channels: how many channels each image has, where the user said so.
    axis: the axis that a volume is cut along, where the user said so, in the order in which the file gives its sizes.
    Raises BadImage(reason), and UserError for a reader that is not installed.
    """
    with reasons(data):
        return _reader(data)(data, channels, axis)


def _reader(data: bytes) -> Callable[[bytes, int | None, int | None], Planes]:
    """What reads a file that begins so. Readers that few need are imported only then."""
    if line := convert_line(data):
        raise BadImage(line)
    if data.startswith(NPY):
        return _read_npy
    if data.startswith(ZIP):
        return _read_npz
    from zorse_prep import dicom, medical

    if dicom.is_dicom(data):  # which may have a TIFF's first bytes in front
        return dicom.read_dicom
    if data.startswith(TIFF):
        from zorse_prep.tiff_arrays import read_tiff_planes

        return read_tiff_planes
    if medical.is_nifti(data):
        return medical.read_nifti
    if medical.is_itk(data):
        return medical.read_itk
    return _read_picture


def _read_npy(data: bytes, channels: int | None, axis: int | None) -> Planes:
    values = array_of_npy(data)
    return planes_of(values, layout_of(values.shape, channels, axis))


def array_of_npy(data: bytes) -> np.ndarray:
    """The array of a .npy, in the memory of `data`. Raises BadImage."""
    file = io.BytesIO(data)
    shape, is_fortran, dtype = _npy_header(file)
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise BadImage("a NumPy file of objects or records; store one array of numbers")
    check_shape(shape, dtype.itemsize)
    count, start = int(np.prod(shape, dtype=object)), file.tell()
    if count * dtype.itemsize > len(data) - start:
        raise BadImage("the file is truncated: its header tells of more numbers than it holds")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")


def _npy_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:  # the third is for names in other scripts, which arrays of numbers do not have
        raise BadImage(f"a NumPy file of version {version[0]}.{version[1]}; store one array of numbers")
    try:
        return readers[version](file, max_header_size=LARGEST_HEADER)
    except Exception:  # it is read as Python is, which raises nearly anything
        raise BadImage("the header of this NumPy file is damaged") from None


def _read_npz(data: bytes, channels: int | None, axis: int | None) -> Planes:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except zipfile.BadZipFile:
        raise BadImage("the archive is truncated: its list of files is missing") from None
    with archive:
        names = archive.namelist()
        arrays = [name for name in names if name.endswith(".npy")]
        if not arrays:
            raise BadImage("a zip archive without a NumPy array; give image files, or one .npy for each image")
        if len(names) > 1:
            told = ", ".join(name.removesuffix(".npy") for name in names[:5]) + ", ..." * (len(names) > 5)
            raise BadImage(f"several arrays in one file ({told}); store the one that is the image as .npy")
        with archive.open(arrays[0]) as file:
            array = file.read(MOST_BYTES + LARGEST_HEADER)  # what is longer is too much for its own header
            if file.read(1):
                raise BadImage(f"more than {MOST_BYTES / 1e6:.0f} MB of numbers; cut it into parts")
    if not array.startswith(NPY):
        raise BadImage("an archive whose .npy is not one of NumPy")
    return _read_npy(array, channels, axis)


def _read_picture(data: bytes, channels: int | None, axis: int | None) -> Planes:
    """A photograph, upright, in the levels that its file has; no profile applied, nothing put on white."""
    image, notes = open_picture(data)
    if (levels := _deep_levels(data, image)) is not None:
        return planes_of(levels, PICTURE if levels.ndim == 3 else layout_of(levels.shape), notes)
    image, _ = load_picture(data, image, notes)
    if image.mode == "CMYK":
        image = to_srgb(image, None, notes)
    elif image.mode == "P":
        notes.append("palette")
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("1", "YCbCr", "LAB", "HSV", "PA", "La", "RGBa"):
        image = image.convert({"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}.get(image.mode, "RGB"))
    values = np.asarray(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow may hold in 32
        values = values.astype(np.uint16)
    return planes_of(values, PICTURE if values.ndim == 3 else layout_of(values.shape), notes)


def _deep_levels(data: bytes, image: Image.Image) -> np.ndarray | None:
    """The levels of an image that Pillow has opened but would bring to another depth; None for all others."""
    is_png = image.format == "PNG" and "16" in image.tile[0].args and image.mode != "I;16"
    if is_png or (image.format == "JPEG2000" and bits_of_jpeg2000(data) != 8):
        import imagecodecs

        image.load()  # which refuses what is damaged; not all of these decoders do
        decode = imagecodecs.png_decode if is_png else imagecodecs.jpeg2k_decode
        return decode(data)
    return None
