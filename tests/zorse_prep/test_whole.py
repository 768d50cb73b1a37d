"""Files of which a part is missing are refused, though a decoder makes something of them; whole ones never are."""

import io

import numpy as np
import pytest
from drawn_files import bmp
from pictures import PHOTO, encode
from PIL import Image

from zorse_prep import whole
from zorse_prep.images import BadImage, ImagePolicy, prepare

POLICY = ImagePolicy(max_side=2000, min_side=16)
LOSSLESS = ImagePolicy(max_side=2000, min_side=16, lossless=True)
EOI = b"\xff\xd9"
CUTS = (0.3, 0.5, 0.8, 0.95)


def photo(side: int = 96) -> np.ndarray:
    """A smooth picture with some noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), 3)
    return np.clip(np.asarray(coarse) + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)


def jpegs() -> dict[str, bytes]:
    return {
        "baseline": encode(photo()),
        "grey": encode(photo()[..., 0]),
        "CMYK": encode(Image.fromarray(photo()).convert("CMYK")),
        "progressive": encode(photo(), progressive=True),
        "restarts": encode(photo(), restart_marker_rows=1),
        "odd size": encode(photo()[:83, :71]),
    }


@pytest.mark.parametrize("kind", jpegs())
@pytest.mark.fault(15)
def test_half_a_jpeg_with_an_end_marker_is_refused(kind):
    data = jpegs()[kind]
    assert prepare(data, POLICY).size
    for cut in CUTS:
        with pytest.raises(BadImage):
            prepare(data[: int(len(data) * cut)].rstrip(b"\xff") + EOI, POLICY)
    with pytest.raises(BadImage, match="its last scan is not complete"):
        prepare(data[: int(len(data) * 0.9)].rstrip(b"\xff") + EOI, POLICY)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}])
def test_grey_jpeg_is_not_taken_for_half_of_one(options):
    """A missing block is of the grey 128; so may one be that is there."""
    for pixels in (np.full((40, 60, 3), 128, np.uint8), np.full((40, 60), 128, np.uint8)):
        data = encode(pixels, **options)
        assert prepare(data, POLICY).data == data
        assert prepare(data + b"a camera's own" + EOI, POLICY).data == data + b"a camera's own" + EOI


def test_phone_s_jpeg_with_a_thumbnail_and_a_second_picture_is_copied():
    exif = Image.Exif()
    exif[0x010F] = "maker"
    data = encode(photo(), "MPO", save_all=True, append_images=[Image.fromarray(photo())], exif=exif)
    assert prepare(data, POLICY).data == data


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"quality": 5}, {"alpha": True}])
@pytest.mark.fault(15)
def test_webp_with_zeros_for_a_part_of_it_is_refused(options):
    options = dict(options)
    image = Image.fromarray(photo(256))
    if options.pop("alpha", False):
        image.putalpha(200)
    data = encode(image, "WEBP", **options)
    prepare(data, POLICY)
    for cut in CUTS[:3]:
        rest = len(data) - int(len(data) * cut)
        for hole in (rest, rest // 2):
            with pytest.raises(BadImage):
                prepare(data[:-rest] + bytes(hole) + data[len(data) - rest + hole :], POLICY)


@pytest.mark.parametrize("options", [{}, {"quality": 100}, {"lossless": True, "quality": 0, "method": 0}])
def test_flat_webp_that_ends_in_zeros_is_read(options):
    """An even area may be coded as zeros, hundreds of them, in the middle or at the end."""
    pixels = np.full((1000, 1000, 3), 255, np.uint8)
    pixels[:400] = np.random.default_rng(0).integers(0, 255, (400, 1000, 3))
    data = encode(pixels, "WEBP", **options)
    assert data.endswith(bytes(65)) and prepare(data, POLICY).size == (1000, 1000)
    island = np.zeros((300, 300, 3), np.uint8)
    island[100:150, 100:150] = pixels[:50, :50]
    data = encode(island, "WEBP", **options)
    assert ("lossless" in options) == (bytes(65) in data) and prepare(data, POLICY).size == (300, 300)


def test_webp_s_metadata_is_no_picture():
    data = encode(PHOTO, "WEBP", exif=b"Exif\0\0" + bytes(300))
    assert b"EXIF" in data and prepare(data, POLICY).size == (60, 40)


@pytest.mark.fault(15)
def test_animation_cut_behind_its_first_picture_is_refused():
    frames = [Image.fromarray(photo(64)), Image.fromarray(photo(64)[::-1].copy())]
    data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    prepare(data, POLICY)
    for end in (data.rindex(b"ANMF"), data.rindex(b"ANMF") + 30):
        for rest in (b"", bytes(len(data) - end)):
            with pytest.raises(BadImage):
                prepare(data[:end] + rest, POLICY)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"II*\0"}])
def test_webp_of_too_many_pixels_is_refused_before_it_is_decoded(options, monkeypatch):
    """The size stands in three places, for three kinds of files."""
    data = encode(PHOTO, "WEBP", **options)
    monkeypatch.setattr(whole, "MOST_PIXELS", 2 * 60 * 40)
    assert prepare(data, POLICY).size == (60, 40)
    monkeypatch.setattr(whole, "MOST_PIXELS", 2 * 60 * 40 - 2)
    with pytest.raises(BadImage, match="million pixels, the most of a WebP"):
        prepare(data, POLICY)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.fault(15)
def test_bmp_of_runs_that_is_cut_is_refused(bits):
    palette = np.random.default_rng(0).integers(0, 256, (2**bits, 3), dtype=np.uint8)
    levels = np.random.default_rng(1).integers(0, 2**bits, (20, 31))
    for top_down in (False, True):
        data = bmp(levels, bits, (), palette, top_down, runs=True)
        assert np.array_equal(Image.open(io.BytesIO(prepare(data, LOSSLESS).data)), palette[levels])
    prepare(data[:-2], POLICY)  # all pixels are there, and the end is not told
    for cut in range(len(data) - 40, len(data) // 2, -7):
        with pytest.raises(BadImage):
            prepare(data[:cut], POLICY)
