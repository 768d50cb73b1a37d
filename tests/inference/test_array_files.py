"""Translations of arrays: read back they are the same numbers, in the axes and the space that their source has."""

import gzip
import io

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from nibabel.testing import data_path
from pydicom.data import get_testdata_file

from zorse.errors import UserError
from zorse.inference.array_files import write_planes
from zorse.inference.image_files import MARK, MARK_WITHIN
from zorse_prep.arrays import read_planes
from zorse_prep.format import STORED

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint16") -> np.ndarray:
    low, high = (-1000, 4000) if np.dtype(dtype).kind in "if" else (0, 250)
    return RNG.uniform(low, high, shape).astype(dtype)


def tiff(values: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **how)
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def nifti(values: np.ndarray, kind: type = nibabel.Nifti1Image, order: str = "<") -> bytes:
    affine = np.array([[0, 2, 0, -5], [1.5, 0, 0, 7], [0, 0, 3, 11], [0, 0, 0, 1.0]])
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    header.set_xyzt_units("mm", "sec")
    image = kind(values, affine, header)
    image.set_qform(affine, 2)
    image.set_sform(affine, 4)
    return image.to_bytes()


def itk(values: np.ndarray, suffix: str, folder, is_vector: bool = False) -> bytes:
    image = SimpleITK.GetImageFromArray(values, isVector=is_vector)
    image.SetSpacing([0.5, 0.75, 2][: image.GetDimension()])
    image.SetOrigin([1, 2, 3][: image.GetDimension()])
    if image.GetDimension() == 3:
        image.SetDirection([0, 1, 0, -1, 0, 0, 0, 0, 1])
    image.SetMetaData("Scanner", "number 7")
    SimpleITK.WriteImage(image, str(folder / f"x{suffix}"))
    return (folder / f"x{suffix}").read_bytes()


def itk_image(data: bytes, suffix: str, folder):
    (folder / f"y{suffix}").write_bytes(data)
    return SimpleITK.ReadImage(str(folder / f"y{suffix}"))


def translated(source: bytes, suffix: str, dtype: str, channels: int | None = None, axis: int | None = None):
    """Other numbers for a source, the file that is made of them, and whether they come back out of it."""
    planes = read_planes(source, channels, axis)
    other = noise(*planes.values.shape, dtype=dtype)
    data = write_planes(other, suffix, source, channels, axis)
    again = read_planes(data, channels, axis).values
    assert again.dtype == other.dtype and np.array_equal(again, other)
    assert MARK in data[:MARK_WITHIN] or MARK in data[-MARK_WITHIN:]
    return other, data


NAMES = {"Name": ["red", "far red"]}
TIFFS = {
    "grey": (noise(20, 30), {}),
    "pages": (noise(6, 20, 30), {"photometric": "minisblack", "metadata": None}),
    "RGB": (noise(20, 30, 3, dtype="uint8"), {"photometric": "rgb"}),
    "bands side by side": (noise(20, 30, 13), {"planarconfig": "contig", "photometric": "minisblack"}),
    "bands in planes": (noise(13, 20, 30), {"planarconfig": "separate", "photometric": "minisblack"}),
    "ImageJ": (noise(3, 2, 20, 30), {"imagej": True, "metadata": {"axes": "ZCYX", "spacing": 2.5, "unit": "um"}}),
    "OME": (noise(2, 3, 2, 20, 30), {"ome": True, "metadata": {"axes": "TZCYX", "Channel": NAMES}}),
    "OME of one channel": (noise(4, 20, 30), {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.25}}),
    "packed": (noise(4, 20, 30), {"compression": "zlib", "photometric": "minisblack"}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_comes_back(kind, dtype):
    values, how = TIFFS[kind]
    source = tiff(values, **how)
    _, data = translated(source, "x.tif", dtype)
    with tifffile.TiffFile(io.BytesIO(source)) as before, tifffile.TiffFile(io.BytesIO(data)) as after:
        pages = [file.pages[0] for file in (before, after)]
        assert pages[1].software == "Zorse" and pages[0].planarconfig == pages[1].planarconfig
        is_held = dtype in ("uint8", "uint16", "float32")  # by ImageJ's kind
        assert (before.is_ome or (before.is_imagej and not is_held)) == after.is_ome
        if before.is_imagej and is_held:
            assert after.imagej_metadata["spacing"] == 2.5 and after.series[0].axes == before.series[0].axes


def test_colours_of_imagej():
    source = tiff(noise(4, 20, 30, 3, dtype="uint8"), imagej=True, metadata={"axes": "ZYXS", "spacing": 2.5})
    for dtype in STORED:
        translated(source, "x.tif", dtype)
    after = tifffile.TiffFile(io.BytesIO(translated(source, "x.tif", "uint8")[1]))
    assert after.series[0].axes == "ZYXS" and after.imagej_metadata["spacing"] == 2.5


def test_names_and_sizes_of_ome_are_kept():
    _, data = translated(tiff(TIFFS["OME"][0], **TIFFS["OME"][1]), "x.ome.tif", "float32")
    assert read_planes(data).channels == ("red", "far red")
    _, data = translated(tiff(TIFFS["OME of one channel"][0], **TIFFS["OME of one channel"][1]), ".tif", "uint8")
    assert 'PhysicalSizeX="0.25"' in tifffile.TiffFile(io.BytesIO(data)).ome_metadata


def test_pages_that_are_channels_stay_pages():
    source = tiff(noise(13, 20, 30), photometric="minisblack", metadata=None)
    _, data = translated(source, "x.tif", "float32", channels=13)
    assert len(tifffile.TiffFile(io.BytesIO(data)).pages) == 13


def test_map_projection_and_bands_are_kept():
    bands = "<GDALMetadata>" + "".join(
        f'<Item name="DESCRIPTION" sample="{n}" role="description">B{n + 1}</Item>' for n in range(3)
    )
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 600000.0, 5200000.0, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True), (34736, "d", 2, (0.5, 6378137.0), True),
        (34737, "s", 0, "WGS 84|", True), (42112, "s", 0, bands + "</GDALMetadata>", True),
        (42113, "s", 0, "-9999", True),
    ]  # fmt: skip
    how = {"photometric": "minisblack", "resolution": (300, 200), "resolutionunit": 2, "metadata": None}
    source = tiff(noise(20, 30, 3), extratags=tags, planarconfig="contig", **how)
    assert read_planes(source).channels == ("B1", "B2", "B3")
    _, data = translated(source, "x.tif", "int16")
    with tifffile.TiffFile(io.BytesIO(source)) as before, tifffile.TiffFile(io.BytesIO(data)) as after:
        for code in (*(tag[0] for tag in tags), 282, 283, 296):
            assert before.pages[0].tags[code].value == after.pages[0].tags[code].value, code
    assert read_planes(data).channels == ("B1", "B2", "B3")


@pytest.mark.parametrize(
    ("shape", "channels", "axis"),
    [
        ((20, 30), None, None),
        ((5, 20, 30), 5, None),
        ((20, 30, 5), 5, None),
        ((20, 30, 9), None, 2),
        ((4, 3, 20, 30), 3, 0),
    ],
)
def test_npy_keeps_its_axes(shape, channels, axis):
    source = npy(np.asfortranarray(noise(*shape)))
    _, data = translated(source, "x.npy", "float32", channels, axis)
    assert np.load(io.BytesIO(data)).shape == shape


def test_npy_of_another_source():
    for shape, stored in (((1, 1, 8, 9), (8, 9)), ((1, 3, 8, 9), (3, 8, 9)), ((4, 1, 8, 9), (4, 1, 8, 9))):
        assert np.load(io.BytesIO(write_planes(noise(*shape), "x.npy"))).shape == stored


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_keeps_its_space(kind, order, axis):
    for values in (noise(8, 9, 10), noise(8, 9, 10, 2), noise(8, 9)):
        source = nifti(values, kind, order)
        for dtype, suffix in (("float32", "x.nii"), ("int16", "x.nii.gz"), ("uint16", "x.nii")):
            _, data = translated(source, suffix, dtype, axis=axis)
            unpacked = gzip.decompress(data) if suffix.endswith("gz") else data
            before, after = kind.from_bytes(source), kind.from_bytes(unpacked)
            assert np.array_equal(before.affine, after.affine) and before.shape == after.shape
            for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "intent_code"):
                assert np.array_equal(before.header[field], after.header[field]), field
            raw = kind.header_class.from_fileobj(io.BytesIO(unpacked))
            assert (raw["scl_slope"].item(), raw["scl_inter"].item(), raw["descrip"].item()) == (1, 0, b"Zorse")


def test_nifti_of_more_channels_has_a_fifth_axis():
    source, planes = nifti(noise(8, 9, 10)), noise(10, 3, 9, 8, dtype="float32")
    data = write_planes(planes, "x.nii", source)
    assert nibabel.Nifti1Image.from_bytes(data).shape == (8, 9, 10, 1, 3)
    assert np.array_equal(read_planes(data).values, planes)
    assert np.array_equal(read_planes(write_planes(planes, "x.nii")).values, planes)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_itk_keeps_its_space(suffix, tmp_path):
    for values, is_vector in ((noise(4, 20, 30), False), (noise(20, 30), False), (noise(4, 20, 30, 3), True)):
        source = itk(values, suffix, tmp_path, is_vector)
        for axis in (None, 0) if values.ndim > 2 else (None,):
            _, data = translated(source, suffix, "float32", axis=axis)
            before, after = itk_image(source, suffix, tmp_path), itk_image(data, suffix, tmp_path)
            for what in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
                assert getattr(before, what)() == getattr(after, what)()
            assert after.GetMetaData("Scanner") == "number 7"


@pytest.mark.parametrize("name", ["CT_small", "MR_small_bigendian", "MR_small_RLE", "MR_small_implicit", "rtdose"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_dicom_keeps_its_patient_and_units(name, dtype):
    with open(get_testdata_file(f"{name}.dcm", download=False), "rb") as file:  # noqa: PTH123
        source = file.read()
    planes = read_planes(source).values
    other = noise(*planes.shape, dtype=dtype)
    data = write_planes(other, "x.dcm", source)
    before, after = (pydicom.dcmread(io.BytesIO(file)) for file in (source, data))
    assert np.array_equal(read_planes(data).values, other)
    assert np.array_equal(pydicom.pixels.apply_rescale(after.pixel_array, after).ravel(), other.ravel())
    for field in ("PatientID", "PixelSpacing", "ImagePositionPatient", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert before.get(field) == after.get(field), field
    assert after.SOPInstanceUID not in (before.SOPInstanceUID, "") and "translated" in after.SeriesDescription
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert MARK in data[:MARK_WITHIN] and write_planes(other, "x.dcm", source) == data


def test_floats_in_dicom_are_rounded_to_a_step():
    with open(get_testdata_file("CT_small.dcm", download=False), "rb") as file:  # noqa: PTH123
        source = file.read()
    planes = noise(1, 1, 128, 128, dtype="float32")
    again = read_planes(write_planes(planes, "x.dcm", source)).values
    assert abs(again - planes).max() <= 5000 / 65535


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (1, "uint16"), (3, "uint8"), (4, "uint8")])
def test_png_comes_back(channels, dtype):
    planes = noise(1, channels, 8, 9, dtype=dtype)
    data = write_planes(planes, "x.png")
    assert np.array_equal(read_planes(data).values, planes) and MARK in data[:MARK_WITHIN]


def test_what_a_kind_cannot_hold_is_told():
    for planes, name in (
        (noise(1, 1, 8, 9, dtype="float32"), "x.png"), (noise(2, 1, 8, 9), "x.png"), (noise(1, 1, 8, 9), "x.dcm"),
        (noise(1, 1, 8, 9), "x.jpg"),
    ):  # fmt: skip
        with pytest.raises(UserError, match="give a name that ends in"):
            write_planes(planes, name)


def test_anatomical_volume_of_nibabel():
    with open(f"{data_path}/anatomical.nii", "rb") as file:  # noqa: PTH123
        translated(file.read(), "x.nii.gz", "float32", axis=1)
