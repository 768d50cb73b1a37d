"""Arrays as NIfTI, DICOM, MetaImage and NRRD, with what their source says of space, patient and units."""

import gzip
import hashlib
import io
import re
import tempfile
from pathlib import Path

import numpy as np

from zorse.errors import UserError
from zorse.inference.image_files import MARK
from zorse_prep.dicom import OF_ALL, OF_FRAMES, RESCALING, is_dicom, open_dicom
from zorse_prep.medical import import_reader, is_itk, is_nifti, itk_layout, nifti_layout, open_itk, open_nifti
from zorse_prep.planes import Layout

COMMENT = 0x10  # the flag of gzip's header
# Of the old pixels, not of the new: what to show of them, their range, tables, and marks of missing ones.
OUTDATED = (
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
    "SmallestImagePixelValue", "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "IconImageSequence",
)  # fmt: skip
STEPS = 65535  # to which floats are rounded in DICOM, between the least and the most
LONGEST = 64  # characters of a DICOM description


def write_nifti(planes: np.ndarray, target: str, source: bytes | None, channels: int | None, axis: int | None) -> bytes:
    """A .nii or .nii.gz of planes [n, C, H, W]; see array_files.write_planes."""
    nibabel = import_reader("nibabel", "NIfTI")
    kind, affine, header, values = nibabel.Nifti1Image, np.eye(4), None, None
    if source is not None and is_nifti(source):
        image, _ = open_nifti(source)
        kind, affine, header = type(image), image.affine, image.header.copy()
        values = _as_nifti(planes, image, channels, axis)
    if values is None:
        layout = Layout((2,), (), 1, 0)
        values = _with_channels(planes, layout, (*planes.shape[:1:-1], len(planes)))
    result = kind(values, affine, header)
    result.header.set_data_dtype(values.dtype)
    result.header["descrip"] = MARK
    result.header["cal_min"] = result.header["cal_max"] = 0  # which levels to show, of the source
    data = result.to_bytes()  # with slope 1 and intercept 0
    return _gzip(data) if target.lower().endswith(".gz") else data


def _as_nifti(planes: np.ndarray, image, channels: int | None, axis: int | None) -> np.ndarray | None:
    """Planes in the axes of a source; None where their sides differ."""
    shape, is_colour = image.header.get_data_shape(), image.dataobj.dtype.names is not None
    if is_colour:
        shape = (*shape, len(image.dataobj.dtype.names))
    layout = nifti_layout(shape, is_colour, channels, axis)
    values = layout.joined(planes, shape)
    if values is None or (is_colour and not _is_colour(planes, shape[-1])):
        # As many slices, but with channels that the source does not have in this form.
        own = tuple(size for place, size in enumerate(shape) if place not in layout.channels)
        plain = nifti_layout(own, False, None, axis)
        return _with_channels(planes, plain, own)
    if is_colour:
        return np.ascontiguousarray(values).view(image.dataobj.dtype)[..., 0]
    return values


def _is_colour(planes: np.ndarray, channels: int) -> bool:
    return planes.dtype == np.uint8 and planes.shape[1] == channels


def _with_channels(planes: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray | None:
    """Planes in the axes of a layout without channels; several channels become NIfTI's fifth axis."""
    parts = [layout.joined(planes[:, number : number + 1], shape) for number in range(planes.shape[1])]
    if any(part is None for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]
    parts = [part.reshape(*part.shape, *[1] * (4 - part.ndim)) for part in parts]
    return np.stack(parts, 4)


def _gzip(data: bytes) -> bytes:
    """Packed, with the mark as a comment in the header, where it can be read without unpacking."""
    packed = gzip.compress(data, compresslevel=6, mtime=0)
    return packed[:3] + bytes([packed[3] | COMMENT]) + packed[4:10] + MARK + b"\0" + packed[10:]


# --- MetaImage and NRRD ---


def write_itk(planes: np.ndarray, target: str, source: bytes | None, channels: int | None, axis: int | None) -> bytes:
    """A .mha or .nrrd of planes [n, C, H, W]; see array_files.write_planes."""
    sitk = import_reader("SimpleITK", "this file")
    image = open_itk(source) if source is not None and is_itk(source) else None
    values = None
    if image is not None:
        shape = image.GetSize()[::-1]
        layout = itk_layout(image, axis)._replace(channels=())
        parts = [layout.joined(planes[:, number : number + 1], shape) for number in range(planes.shape[1])]
        values = None if parts[0] is None else np.stack(parts, -1)
    if values is None:
        image, values = None, planes.transpose(0, 2, 3, 1)
        values = values if len(planes) > 1 else values[0]
    is_vector = planes.shape[1] > 1
    result = sitk.GetImageFromArray(values if is_vector else values[..., 0], isVector=is_vector)
    if image is not None:
        result.CopyInformation(image)
        for key in image.GetMetaDataKeys():
            if not key.startswith(("ITK_", "NRRD_")):
                result.SetMetaData(key, image.GetMetaData(key))
    result.SetMetaData("Software", MARK.decode())
    with tempfile.TemporaryDirectory() as folder:  # it writes files alone
        path = Path(folder, "image.nrrd" if target.lower().endswith(".nrrd") else "image.mha")
        sitk.WriteImage(result, str(path))
        return path.read_bytes()


# --- DICOM ---


def write_dicom(planes: np.ndarray, target: str, source: bytes | None, channels: int | None, axis: int | None) -> bytes:
    """A DICOM file of planes [n, C, H, W], of a DICOM source; floats are rounded to 65536 steps."""
    if source is None or not is_dicom(source):
        raise UserError(f"{target}: DICOM is only made of DICOM; give a name that ends in .nii, .tif or .npy")
    if planes.shape[1] not in (1, 3) or (planes.shape[1] == 3 and planes.dtype.name not in ("uint8", "uint16")):
        held = f"{planes.shape[1]} channels of {planes.dtype.name}"
        raise UserError(f"{target}: DICOM cannot hold {held}; give a name that ends in .nii, .tif or .npy")
    dataset = open_dicom(source)
    for name in OUTDATED:
        if name in dataset:
            delattr(dataset, name)
    values, slope, intercept = _stored(planes)
    _describe(dataset, values)
    _set_units(dataset, slope, intercept, planes.shape[1] == 1)
    raw = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).tobytes()
    dataset.PixelData = raw + bytes(len(raw) % 2)
    dataset["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    _set_origin(dataset)
    return _written(dataset)


def _written(dataset) -> bytes:
    """The file of a data set, without those elements of the source of which the values cannot be written."""
    write = import_reader("pydicom.filewriter", "DICOM").dcmwrite
    while True:
        buffer = io.BytesIO()
        try:
            write(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
            return buffer.getvalue()
        except (TypeError, ValueError, AttributeError) as error:
            tag = re.match(r"With tag \((\w{4}),(\w{4})\)", str(error))
            if tag is None or (key := int(tag[1] + tag[2], 16)) not in dataset:
                raise
            del dataset[key]


def _stored(planes: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Whole numbers, and the slope and intercept that give the planes."""
    if planes.dtype.kind != "f":
        return planes.astype(planes.dtype.newbyteorder("<"), copy=False), 1, 0
    low, high = float(planes.min()), float(planes.max())
    slope = (high - low) / STEPS or 1.0
    return np.rint((planes.astype(np.float64) - low) / slope).astype("<u2"), slope, low


def _describe(dataset, values: np.ndarray) -> None:
    """What a reader needs to know of the pixels."""
    count, number, height, width = values.shape
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = height, width, number
    dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if number == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    else:
        if dataset.PhotometricInterpretation != "MONOCHROME1":
            dataset.PhotometricInterpretation = "MONOCHROME2"
        if "PlanarConfiguration" in dataset:
            del dataset.PlanarConfiguration
    if count > 1 or "NumberOfFrames" in dataset:
        dataset.NumberOfFrames = count


def _set_units(dataset, slope: float, intercept: float, is_grey: bool) -> None:
    """Slope and intercept for all frames, wherever the source has them."""
    for group in (*(dataset.get(OF_ALL) or ()), *(dataset.get(OF_FRAMES) or ())):
        if group.get(RESCALING):
            del group[RESCALING]
    has_any = "RescaleSlope" in dataset or "RescaleIntercept" in dataset or (slope, intercept) != (1, 0)
    if is_grey and has_any:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:.10g}"[:16], f"{intercept:.10g}"[:16]
    elif not is_grey:
        for name in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
            if name in dataset:
                delattr(dataset, name)


def _set_origin(dataset) -> None:
    """New identifiers, which depend on the source and the pixels alone, and what made the file."""
    uids = import_reader("pydicom.uid", "DICOM")
    pixels = hashlib.sha256(dataset.PixelData).hexdigest()
    dataset.SOPInstanceUID = uids.generate_uid(entropy_srcs=[str(dataset.get("SOPInstanceUID")), pixels])
    series = str(dataset.get("SeriesInstanceUID"))
    dataset.SeriesInstanceUID = uids.generate_uid(entropy_srcs=[series, MARK.decode()])
    dataset.SeriesDescription = f"translated by {MARK.decode()}: {dataset.get('SeriesDescription', '')}"[:LONGEST]
    dataset.ImageType = ["DERIVED", "SECONDARY", *list(dataset.get("ImageType") or ())[2:]]
    meta = dataset.file_meta
    meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.ImplementationClassUID = uids.PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = MARK.decode()
    if "SOPClassUID" in dataset:
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
