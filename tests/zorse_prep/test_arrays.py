"""Images of numbers: every kind gives the numbers that it holds, by another reader's word, or is refused by name."""

import gzip
import io
import random
import sys
import zipfile
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401, so that Pillow writes JPEG XL
import pydicom
import pytest
import SimpleITK
import skimage
import skimage.io
import tifffile
from drawn_files import Tiff
from drawn_files import tiff as drawn
from nibabel.testing import data_path
from pictures import PHOTO, RAMP, deep_png, encode, turned
from PIL import Image, ImageSequence
from pydicom.data import get_testdata_file
from running import script

from zorse.errors import UserError
from zorse_prep.arrays import read_planes
from zorse_prep.format import STORED
from zorse_prep.images import ImagePolicy, prepare
from zorse_prep.items import HEAD, looks_like_image
from zorse_prep.pixels import BadImage

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4096, (3, 2, 40, 50)).astype(np.uint16)
SAMPLES = Path(skimage.__file__).parent / "data"
POLICY = ImagePolicy(max_side=100, min_side=16)
pillow_heif.register_heif_opener()


def values(data: bytes, channels: int | None = None, axis: int | None = None) -> np.ndarray:
    planes = read_planes(data, channels, axis).values
    assert planes.ndim == 4 and planes.dtype.name in STORED and planes.flags.c_contiguous
    assert planes.dtype.isnative and planes.size
    return planes


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def tiff(array: np.ndarray, **how) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **how)
    return buffer.getvalue()


def dicom(name: str) -> bytes:
    return Path(get_testdata_file(f"{name}.dcm", download=False)).read_bytes()


def volume(name: str) -> bytes:
    return Path(data_path, name).read_bytes()


def itk(array: np.ndarray, suffix: str, folder: Path, packed: bool = False) -> bytes:
    path = folder / f"x{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), useCompression=packed)
    return path.read_bytes()


# --- real files, by other readers ---


@pytest.mark.parametrize("name", ["anatomical.nii", "functional.nii", "example_nifti2.nii.gz", "standard.nii.gz"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_volumes_of_nibabel(name, axis):
    truth = nibabel.load(Path(data_path, name)).get_fdata()
    truth = truth.reshape(*truth.shape, *[1] * (4 - truth.ndim))  # with time
    cut = 2 if axis is None else axis
    truth = np.moveaxis(truth, [cut, 3], [0, 1]).swapaxes(2, 3)  # x along a row
    found = values(volume(name), axis=axis)
    assert np.array_equal(found[:, 0], truth.reshape(-1, *truth.shape[2:]).astype(found.dtype))


def test_scaled_volumes_are_floats_and_others_stay_whole():
    assert values(volume("anatomical.nii")).dtype == np.int16
    functional = read_planes(volume("functional.nii"))
    assert functional.values.dtype == np.float32 and functional.notes == ("rescaled",)


@pytest.mark.parametrize("name", ["CT_small", "MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE"])
def test_slices_of_pydicom(name):
    found = values(dicom(name))
    dataset = pydicom.dcmread(get_testdata_file(f"{name}.dcm"))
    assert np.array_equal(found[0, 0], pydicom.pixels.apply_rescale(dataset.pixel_array, dataset))
    by_itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(get_testdata_file(f"{name}.dcm")))
    assert np.array_equal(found[0, 0], by_itk[0]) and found.dtype == np.int16


def test_frames_and_colours_of_dicom():
    doses = pydicom.dcmread(get_testdata_file("rtdose.dcm"))
    assert np.array_equal(values(dicom("rtdose"))[:, 0], doses.pixel_array)
    colours = pydicom.dcmread(get_testdata_file("SC_rgb_rle_2frame.dcm")).pixel_array
    assert np.array_equal(values(dicom("SC_rgb_rle_2frame")), colours.transpose(0, 3, 1, 2))
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.PhotometricInterpretation, dataset.RescaleSlope = "MONOCHROME1", 0.5
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    planes = read_planes(buffer.getvalue())
    assert planes.notes == ("monochrome1", "rescaled") and planes.values.dtype == np.float32
    assert np.array_equal(planes.values[0, 0], dataset.pixel_array * 0.5 - 1024)


def test_each_frame_may_have_its_own_slope():
    dataset = pydicom.dcmread(get_testdata_file("rtdose.dcm"))
    dataset.PerFrameFunctionalGroupsSequence = [pydicom.Dataset() for _ in range(15)]
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        pair = pydicom.Dataset()
        pair.RescaleSlope, pair.RescaleIntercept = number + 1, -number
        group.PixelValueTransformationSequence = [pair]
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    scale = np.arange(15)[:, None, None]
    assert np.array_equal(values(buffer.getvalue())[:, 0], dataset.pixel_array * (scale + 1) - scale)


def test_pictures_of_scikit_image():
    cell = values((SAMPLES / "cell.png").read_bytes())
    assert np.array_equal(cell[0, 0], skimage.io.imread(SAMPLES / "cell.png"))
    ihc = values((SAMPLES / "ihc.png").read_bytes())
    assert np.array_equal(ihc[0].transpose(1, 2, 0), skimage.io.imread(SAMPLES / "ihc.png"))
    with Image.open(SAMPLES / "multipage.tif") as file:
        pages = [np.asarray(frame).copy() for frame in ImageSequence.Iterator(file)]
    assert np.array_equal(values((SAMPLES / "multipage.tif").read_bytes())[:, 0], pages)
    with tifffile.TiffFile(SAMPLES / "multipage_rgb.tif") as file:  # planes of float64
        pages = np.stack([page.asarray() for page in file.pages]).astype(np.float32)
    assert np.array_equal(values((SAMPLES / "multipage_rgb.tif").read_bytes()), pages)


# --- drawn TIFFs ---


@pytest.mark.parametrize("how", [{}, {"tile": (16, 16)}, {"rowsperstrip": 7}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", "int8", "float16"])
def test_tiff_of_13_bands(how, compression, dtype):
    bands = (RNG.uniform(-100, 100, (13, 40, 50)) * 1.5).astype(dtype)
    options = {**how, "compression": compression, "photometric": "minisblack", "metadata": None}
    for array, planar in ((bands, "separate"), (bands.transpose(1, 2, 0), "contig")):
        found = values(tiff(array, planarconfig=planar, **options))
        assert np.array_equal(found[0], bands.astype(found.dtype))
    assert np.array_equal(values(tiff(bands, **options))[:, 0], bands.astype(found.dtype))
    assert np.array_equal(values(tiff(bands, **options), channels=13)[0], bands.astype(found.dtype))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [{}, {"compression": "zlib"}])
def test_axes_of_ome_and_imagej(order, packed):
    names = {"axes": "ZCYX", "Channel": {"Name": ["nuclei", "actin"]}}
    planes = read_planes(tiff(STACK, ome=True, metadata=names, byteorder=order, **packed))
    assert np.array_equal(planes.values, STACK) and planes.channels == ("nuclei", "actin")
    stack = np.broadcast_to(STACK, (4, *STACK.shape))
    found = values(tiff(stack, ome=True, metadata={"axes": "TZCYX"}, byteorder=order, **packed))
    assert np.array_equal(found, stack.reshape(12, 2, 40, 50))
    assert np.array_equal(values(tiff(STACK, imagej=True, metadata={"axes": "ZCYX"})), STACK)
    along_y = values(tiff(STACK[:, 0], ome=True, metadata={"axes": "ZYX"}), axis=1)
    assert np.array_equal(along_y[:, 0], STACK[:, 0].swapaxes(0, 1))


def test_numbers_of_12_bits_and_inverted_ones():
    assert np.array_equal(values(drawn((RAMP >> 4)[..., None], Tiff(12)))[0, 0], RAMP >> 4)
    for levels, bits in ((RAMP >> 4, 12), (RAMP, 16), ((RAMP >> 8).astype(np.uint8), 8)):
        planes = read_planes(drawn(levels[..., None], Tiff(bits, photometric=0)))
        assert np.array_equal(planes.values[0, 0], (1 << bits) - 1 - levels) and planes.notes == ("white_is_0",)
    signed = (RAMP.astype(np.int32) - 30000).astype(np.int16)
    assert np.array_equal(values(drawn(signed[..., None], Tiff(16, "signed")))[0, 0], signed)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_tiff(orientation):
    exif = {274: orientation}
    upright = prepare(encode(PHOTO, "TIFF", tiffinfo=exif), ImagePolicy(100, 16, lossless=True)).data
    found = values(encode(PHOTO, "TIFF", tiffinfo=exif))
    assert np.array_equal(found[0].transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(upright))))


def test_palettes_become_colours():
    palette = Image.fromarray(PHOTO).quantize(4)
    for kind in ("TIFF", "PNG", "GIF"):
        assert np.array_equal(values(encode(palette, kind))[0].transpose(1, 2, 0), np.asarray(palette.convert("RGB")))


# --- pictures ---


def test_16_bits_of_pictures_are_kept():
    deep = RNG.integers(0, 65536, (40, 50, 4)).astype(np.uint16)
    for channels in (1, 2, 3, 4):
        assert np.array_equal(values(deep_png(deep[..., :channels]))[0].transpose(1, 2, 0), deep[..., :channels])
    jpeg2000 = imagecodecs.jpeg2k_encode(deep[..., 0] >> 4, bitspersample=12, level=0)
    assert np.array_equal(values(jpeg2000)[0, 0], deep[..., 0] >> 4)


def test_pictures_of_8_bits():
    for kind in ("PNG", "BMP", "GIF", "WEBP", "JPEG", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL"):
        lossless = {"lossless": True} if kind in ("WEBP", "JXL") else {}
        found = values(encode(PHOTO, kind, **lossless))[0].transpose(1, 2, 0)
        assert abs(found.astype(int) - PHOTO).max() <= (60 if kind in ("JPEG", "AVIF", "HEIF") else 0), kind
    assert values(turned("JPEG")).shape == (1, 3, 60, 40)


@pytest.mark.parametrize("kind", ["JPEG2000", "AVIF", "HEIF", "JXL"])
def test_newer_kinds_are_photographs_too(kind):
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96), 3))
    data = encode(smooth, kind)
    stored = np.asarray(Image.open(io.BytesIO(prepare(data, POLICY).data))).astype(int)
    assert stored.shape == (96, 96, 3) and abs(stored - smooth).mean() < 6
    for cut in np.linspace(1, len(data) - 65, 40).astype(int):
        for part in (data[:cut], data[: cut + 64], data[:cut] + bytes(len(data) - cut)):
            with pytest.raises(BadImage):
                prepare(part, POLICY)


@pytest.mark.parametrize(
    ("module", "kind", "package"), [("pillow_heif", "HEIF", "pillow-heif"), ("pillow_jxl", "JXL", "pillow-jxl-plugin")]
)
def test_plug_in_that_is_missing_is_told(module, kind, package, monkeypatch):
    data = encode(PHOTO, kind)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BadImage, match=rf"not installed; run: pip install {package}$"):
        prepare(data, POLICY)


@pytest.mark.parametrize("module", ["nibabel", "pydicom", "SimpleITK"])
def test_reader_that_is_missing_is_told(module, monkeypatch):
    files = {"nibabel": volume("anatomical.nii"), "pydicom": dicom("CT_small"), "SimpleITK": b"NRRD0004\n" + bytes(50)}
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"needs {module}, of the extra medical; run: pip install {module}$"):
        read_planes(files[module])


# --- NumPy's files, axes and types ---


def test_axes_of_arrays():
    array = RNG.uniform(size=(5, 40, 50)).astype(np.float32)
    last = np.ascontiguousarray(array.transpose(1, 2, 0))
    for data in (npy(array), npy(last), npy(np.asfortranarray(array)), npz(image=array)):
        assert np.array_equal(values(data)[0], array) and np.array_equal(values(data, channels=5)[0], array)
    assert np.array_equal(values(npy(array), axis=0)[:, 0], array)
    assert np.array_equal(values(npy(array), axis=-1)[:, 0], array.transpose(2, 0, 1))
    assert np.array_equal(values(npy(STACK), axis=0), STACK)
    assert np.array_equal(values(npy(STACK[0, 0]), axis=1)[0, 0], STACK[0, 0])
    cube = npy(np.zeros((20, 30, 40), np.uint8))
    for data, named in ((cube, {}), (npy(array), {"channels": 1}), (npy(STACK), {}), (cube, {"axis": 3})):
        with pytest.raises(BadImage, match=r"slice-axis|give 0"):
            read_planes(data, **named)
    assert values(cube, channels=40).shape == (1, 40, 20, 30) and values(cube, channels=20).shape == (1, 20, 30, 40)


def test_types_of_arrays():
    for given, stored in (
        ("bool", "uint8"), ("int8", "int16"), ("uint8", "uint8"), (">u2", "uint16"), (">i2", "int16"),
        ("int32", "int32"), ("uint32", "int32"), ("int64", "int32"), (">u8", "int32"), ("float16", "float32"),
        (">f4", "float32"), ("float64", "float32"), ("longdouble", "float32"),
    ):  # fmt: skip
        array = RNG.integers(0, 100, (20, 30)).astype(given)
        planes = read_planes(npy(array))
        assert planes.values.dtype == stored and np.array_equal(planes.values[0, 0], array), given
        assert planes.notes == (("float64",) if given in ("float64", "longdouble") else ())


def damaged_header(array: np.ndarray, old: str, new: str) -> bytes:
    data = npy(array)
    assert len(old) == len(new) and old.encode() in data
    return data.replace(old.encode(), new.encode())


def refused() -> dict[str, tuple[bytes, str]]:
    ramp = np.arange(600, dtype=np.float32).reshape(20, 30)
    zarr = io.BytesIO()
    with zipfile.ZipFile(zarr, "w") as file:
        file.writestr("0/.zarray", "{}")
    return {
        "NaN": (npy(np.where(ramp == 7, np.nan, ramp)), "NaN or infinite values; replace"),
        "infinite": (npy(np.where(ramp == 7, np.inf, ramp)), "NaN or infinite values"),
        "too large for 32 bits": (npy(ramp.astype(np.float64) * 1e300), "NaN or infinite values"),
        "complex": (npy(ramp + 1j), "complex numbers"),
        "objects": (npy(np.array([None, 1], dtype=object)), "of objects or records"),
        "records": (npy(np.zeros((20, 30), dtype=[("x", "f4")])), "of objects or records"),
        "texts": (npy(np.array([["a", "b"]])), "values of the type <U1"),
        "whole numbers": (npy(np.full((20, 30), 1 << 40)), "which 32 bits do not hold; store them as float32"),
        "one axis": (npy(ramp.ravel()), "which is no image"),
        "empty": (npy(ramp[:0]), "holds no pixels"),
        "negative": (damaged_header(ramp, "(20, 30)", "(-2, 30)"), "holds no pixels"),
        "more than there is": (damaged_header(ramp, "(20, 30)", "(90, 90)"), "its header tells of more numbers"),
        "bomb": (damaged_header(np.zeros((10000, 1)), "(10000, 1)", "(99999999,"[:10]), "header of this NumPy file"),
        "huge": (damaged_header(ramp, "(20, 30), }          ", "(999999, 999999999)} "), "MB of numbers"),
        "code": (damaged_header(ramp, "(20, 30)", "exit(1) "), "header of this NumPy file is damaged"),
        "several": (npz(one=ramp, two=ramp), r"several arrays in one file \(one, two\)"),
        "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(90), r"an HDF5 file, which is not read; convert it: python -c .*h5py"),
        "Zarr": (zarr.getvalue(), "a Zarr store, which is not read; convert it: python -c"),
        "gzip": (gzip.compress(b"text"), "a gzip file that holds no NIfTI"),
        "pair": (volume("anatomical.nii").replace(b"n+1\0", b"ni1\0"), "numbers lie in another file"),
        "text": (b"nothing", "not an image"),
        "report": (dicom("test-SR"), "a DICOM file without an image"),
        "JPEG-LS": (dicom("MR_small_jpeg_ls_lossless"), "compressed as JPEG-LS Lossless.*no decoder is installed"),
        "other file": (
            b"ObjectType = Image\nNDims = 2\nDimSize = 9 9\nElementType = MET_UCHAR\nElementDataFile = /etc/hostname\n",
            "numbers lie in another file",
        ),
        "other NRRD": (b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 9 9\ndata file: x.raw\n\n", "in another file"),
        "half of OME": (
            tiff(STACK, ome=True, metadata={"axes": "ZCYX"}, compression="zlib")[:-40], "directory is not complete",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", refused())
def test_what_is_no_image_is_told_in_one_line(name):
    data, reason = refused()[name]
    with pytest.raises(BadImage, match=reason) as error:
        read_planes(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [npy(STACK[0, 0]), npz(a=STACK[0, 0]), volume("anatomical.nii"), volume("standard.nii.gz"), dicom("CT_small"),
     dicom("rtdose"), b"NRRD0004\n" + bytes(90), b"ObjectType = Image\n" + bytes(90)],
)  # fmt: skip
def test_photographs_need_a_known_white(data):
    with pytest.raises(BadImage, match=r"numbers without a known white; give --range-a/--range-b LOW HIGH, or"):
        prepare(data, POLICY)


def test_files_of_numbers_are_listed():
    for name in ("a.npy", "b.NPZ", "c.nii", "d.nii.gz", "e.dcm", "f.IMA", "g.mha", "h.nrrd", "i.h5", "j.hdf5"):
        assert looks_like_image(name, bytes)
    for data in (npy(STACK), dicom("CT_small"), dicom("MR_small")):
        assert looks_like_image("IM000001", lambda data=data: data[:HEAD])
    assert not looks_like_image("notes.gz", lambda: b"\x1f\x8b" + bytes(200))


# --- damage ---


def whole_files(folder: Path) -> dict[str, bytes]:
    names = ("CT_small", "MR_small_RLE", "MR_small_bigendian", "SC_rgb_jpeg", "rtdose", "JPEG2000")
    return {
        **{name: dicom(name) for name in names},
        **{name: volume(name) for name in ("anatomical.nii", "standard.nii.gz")},
        "npy": npy(STACK[0]), "npz": npz(a=STACK[0]), "ImageJ": tiff(STACK, imagej=True, metadata={"axes": "ZCYX"}),
        "OME": tiff(STACK, ome=True, metadata={"axes": "ZCYX"}), "shaped": tiff(STACK),
        "PNG": deep_png(STACK[0, 0, ..., None]), "packed": tiff(STACK, compression="lzw", rowsperstrip=7),
        "tiles": tiff(STACK[0, 0], tile=(16, 16), compression="zstd"),
        "planes": tiff(STACK[:, 0], planarconfig="separate", photometric="minisblack"),
        "JPEG in TIFF": tiff((STACK[0, 0] >> 4).astype(np.uint8), compression="jpeg"),
        ".mha": itk(STACK[:, 0], ".mha", folder), "packed .mha": itk(STACK[:, 0], ".mha", folder, packed=True),
        ".nrrd": itk(STACK[:, 0], ".nrrd", folder), "packed .nrrd": itk(STACK[:, 0], ".nrrd", folder, packed=True),
    }  # fmt: skip


def test_truncated_files_never_give_other_numbers(tmp_path):
    for name, data in whole_files(tmp_path).items():
        channels = 2 if name.startswith("np") else None
        truth = values(data, channels)
        cuts = {
            *range(0, 400, 23),
            *np.linspace(0, len(data) - 1, 25).astype(int),
            *range(len(data) - 20, len(data), 3),
        }
        for cut in cuts:
            try:
                found = values(data[:cut], channels)
            except BadImage as error:
                assert "\n" not in str(error)
            else:
                assert found.dtype == truth.dtype and np.array_equal(found, truth), (name, cut)


def test_damaged_headers_are_refused_or_read(tmp_path):
    """Bytes changed at random near the beginning: nothing but BadImage comes of it."""
    chance = random.Random(0)
    for data in whole_files(tmp_path).values():
        for _ in range(25):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 2, 9))):
                changed[chance.randrange(min(500, len(data)))] = chance.choice(
                    (0, 127, 128, 255, chance.randrange(256))
                )
            try:
                values(bytes(changed), 2)
            except BadImage as error:
                assert "\n" not in str(error)


def test_volumes_that_unpack_to_too_much_are_refused(monkeypatch):
    monkeypatch.setattr("zorse_prep.medical.MOST_BYTES", 1_000_000)
    monkeypatch.setattr("zorse_prep.medical.MOST_HEADER", 1000)
    with pytest.raises(BadImage, match="MB once it is unpacked"):
        read_planes(gzip.compress(volume("anatomical.nii")[:352] + bytes(40_000_000)))


def test_meta_images_by_their_own_reader(tmp_path):
    for suffix in (".mha", ".nrrd"):
        for dtype in ("uint8", "int16", "uint16", "int32", "float32", "float64"):
            array = RNG.integers(0, 100, (4, 30, 40)).astype(dtype)
            data = itk(array, suffix, tmp_path, packed=True)
            assert np.array_equal(values(data)[:, 0], array)
            assert np.array_equal(values(data, axis=0)[:, 0], array.transpose(2, 0, 1))


def test_a_zarr_store_in_a_folder_is_told(tmp_path):
    for split in ("trainA", "trainB"):
        (tmp_path / split / "cells.zarr" / "0").mkdir(parents=True)
        (tmp_path / split / "cells.zarr" / "0" / "0.0").write_bytes(bytes(100))
    refused = script("data_prep/shard.py", "--source", tmp_path, "--out", tmp_path / "out", "--range-a", "0", "1")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "cells.zarr is a Zarr store, which is not read; convert it: python -c" in refused.stderr
