"""DICOM as numbers in the units of its scanner: pydicom reads the file, and decodes what the codecs here can."""

import io
from types import ModuleType

import numpy as np

from zorse_prep.medical import import_reader, unpacked
from zorse_prep.pixels import BadImage
from zorse_prep.planes import Layout, Planes, check_shape, planes_of, whole_numbers

MARK, MARK_AT = b"DICM", 128
# The first group and element of files without that mark.
BARE = (b"\x02\0\0\0", b"\x02\0\x10\0", *(b"\x08\0" + element for element in (b"\0\0", b"\1\0", b"\5\0", b"\x08\0")))
BARE_BIG = (b"\0\x08\0\x05", b"\0\x08\0\x08", b"\0\x08\0\0")
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax of which all but the header is packed
OF_FRAMES, OF_ALL = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
RESCALING = "PixelValueTransformationSequence"


def is_dicom(data: bytes) -> bool:
    """Whether a file is DICOM, with its mark or without."""
    return data[MARK_AT : MARK_AT + 4] == MARK or data.startswith((*BARE, *BARE_BIG))


def read_dicom(data: bytes, channels: int | None, axis: int | None) -> Planes:
    """The frames of a DICOM file. What it is cut along, its frames say."""
    dataset = open_dicom(data)
    frames = _frames(dataset)
    notes = ["monochrome1"] * (dataset.PhotometricInterpretation == "MONOCHROME1")
    values = _pixels(dataset, frames, notes)
    layout = Layout((0,), (3,) if values.ndim == 4 else (), 1, 2)
    return planes_of(_in_units(values, dataset, notes), layout, notes)


def open_dicom(data: bytes):
    """pydicom's data set of an image. Raises BadImage."""
    pydicom = import_reader("pydicom", "DICOM")
    if DEFLATED in data[:1024]:
        length = int.from_bytes(data[140:144], "little")  # of the header, which is not packed
        unpacked(data[144 + length :], -15)  # to no more than is read
    dataset = pydicom.dcmread(io.BytesIO(data), force=data[MARK_AT : MARK_AT + 4] != MARK)
    if "Rows" not in dataset or not any(name in dataset for name in ("PixelData", "FloatPixelData")):
        raise BadImage("a DICOM file without an image, or truncated in front of it; leave it out, or copy it again")
    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        is_implicit, is_little = dataset.original_encoding
        names = pydicom.uid
        little = names.ImplicitVRLittleEndian if is_implicit else names.ExplicitVRLittleEndian
        meta.TransferSyntaxUID = little if is_little else names.ExplicitVRBigEndian
    return dataset


def _frames(dataset) -> int:
    """The number of frames, after the size is found to be one that can be held."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.get("BitsAllocated") or 8)
    check_shape((frames, int(dataset.Rows), int(dataset.Columns), samples), max(1, bits // 8))
    return frames


def _pixels(dataset, frames: int, notes: list[str]) -> np.ndarray:
    """The stored numbers, [frames, H, W] or, of colours, [frames, H, W, 3]."""
    pydicom = import_reader("pydicom", "DICOM")
    syntax = dataset.file_meta.TransferSyntaxUID
    fix = "install one with: pip install pylibjpeg[all], or store it without compression"
    if syntax.is_compressed and not _is_decodable(pydicom, syntax):
        raise BadImage(f"compressed as {syntax.name}, for which no decoder is installed; {fix}")
    try:
        values = import_reader("pydicom.pixels", "DICOM").pixel_array(dataset)
    except RuntimeError:
        raise BadImage(
            f"compressed as {syntax.name}, damaged or of a kind for which no decoder is installed; {fix}"
        ) from None
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        notes.append("palette")
        values = pydicom.pixels.apply_color_lut(values, dataset)
    values = values.reshape(frames, int(dataset.Rows), int(dataset.Columns), -1)
    return values[..., 0] if values.shape[3] == 1 else values


def _is_decodable(pydicom: ModuleType, syntax) -> bool:
    try:
        return import_reader("pydicom.pixels", "DICOM").get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _in_units(values: np.ndarray, dataset, notes: list[str]) -> np.ndarray:
    """Numbers in the units that slope and intercept give them, Hounsfield's for one; whole ones stay whole."""
    if "ModalityLUTSequence" in dataset:
        notes.append("rescaled")
        return import_reader("pydicom.pixels", "DICOM").apply_modality_lut(values, dataset)
    pairs = rescalings(dataset, len(values))
    if all(pair == (1, 0) for pair in pairs):
        return values
    notes.append("rescaled")
    slopes, intercepts = (np.array(column).reshape(-1, *[1] * (values.ndim - 1)) for column in zip(*pairs, strict=True))
    if all(float(number).is_integer() for pair in pairs for number in pair) and values.dtype.kind in "iu":
        scaled = values * slopes.astype(np.int64) + intercepts.astype(np.int64)
        return whole_numbers(scaled, "int16", "int32")
    return (values * slopes + intercepts).astype(np.float32)


def rescalings(dataset, frames: int) -> list[tuple[float, float]]:
    """Slope and intercept of each frame, or one pair for all: (1, 0) where none are given."""
    top = _pair(dataset)
    shared = [_pair(group[RESCALING][0]) for group in dataset.get(OF_ALL) or () if group.get(RESCALING)]
    groups = dataset.get(OF_FRAMES) or ()
    own = [_pair(group[RESCALING][0]) for group in groups if group.get(RESCALING)]
    if len(own) == frames:
        return own
    return shared[:1] or [top]


def _pair(dataset) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return (1 if slope is None else float(slope)), (0 if intercept is None else float(intercept))
