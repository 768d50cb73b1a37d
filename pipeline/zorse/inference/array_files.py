"""Translations of arrays as files of the kind that their sources have: NumPy's and PNG here, others beside this file.

What a source says of space and time - affine, spacing, map projection, units - its translation says too. Each file
carries MARK near its beginning or end, by which a later translation may replace it (places.py).
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from zorse.errors import UserError
from zorse.inference.image_files import MARK, MARK_WITHIN, SAVING
from zorse_prep.arrays import NPY, array_of_npy
from zorse_prep.planes import layout_of

ARRAY_KINDS = (".npy", ".tif", ".tiff", ".nii", ".nii.gz", ".dcm", ".ima", ".mha", ".nrrd", ".png")
PNG_CHANNELS = {1: ("uint8", "uint16"), 3: ("uint8",), 4: ("uint8",)}


def write_planes(
    planes: np.ndarray,
    target: str | Path,
    source: bytes | None = None,
    channels: int | None = None,
    axis: int | None = None,
) -> bytes:
    """The bytes of a file of the kind that the target's name says.

    planes: [n, C, H, W] of a type that is stored. source: the file that they are a translation of, of any kind, or
    None. channels, axis: what the source was read with. Its own axes, and what it says of space, are kept where the
    kinds agree and its sides are those of the planes. Raises UserError where the kind cannot hold the planes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a source's odd metadata
        data = _writer(str(target).lower())(planes, str(target), source, channels, axis)
    return data if MARK in data[:MARK_WITHIN] or MARK in data[-MARK_WITHIN:] else data + MARK


def _writer(name: str) -> Callable[..., bytes]:
    """What writes a file of that name. Readers that few need are imported only then."""
    if name.endswith(".npy"):
        return _write_npy
    if name.endswith(".png"):
        return _write_png
    if name.endswith((".tif", ".tiff")):
        from zorse.inference.tiff_files import write_tiff

        return write_tiff
    from zorse.inference import medical_files

    if name.endswith((".nii", ".nii.gz")):
        return medical_files.write_nifti
    if name.endswith((".dcm", ".ima")):
        return medical_files.write_dicom
    if name.endswith((".mha", ".nrrd")):
        return medical_files.write_itk
    raise UserError(f"{name}: arrays of this kind cannot be written; give a name that ends in {', '.join(ARRAY_KINDS)}")


def _write_npy(planes: np.ndarray, target: str, source: bytes | None, channels: int | None, axis: int | None) -> bytes:
    values = None
    if source is not None and source.startswith(NPY):
        shape = array_of_npy(source).shape
        values = layout_of(shape, channels, axis).joined(planes, shape)
    if values is None:
        values = planes if len(planes) > 1 else planes[0] if planes.shape[1] > 1 else planes[0, 0]
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def _write_png(planes: np.ndarray, target: str, source: bytes | None, channels: int | None, axis: int | None) -> bytes:
    count, number, _, _ = planes.shape
    if count > 1 or planes.dtype.name not in PNG_CHANNELS.get(number, ()):
        held = f"{count} x {number} channels of {planes.dtype.name}"
        raise UserError(f"{target}: a PNG cannot hold {held}; give a name that ends in .npy or .tif")
    values = planes[0, 0] if number == 1 else planes[0].transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, format="PNG", **SAVING["PNG"])
    return buffer.getvalue()
