"""What becomes of TIFFs of every kind: the values that they hold, or a refusal that says what they are."""

import io
import struct

import numpy as np
import pytest
from decoders import judge
from drawn_files import Tiff, tiff
from drawn_kinds import drawn_files
from pictures import PHOTO, RAMP, encode
from PIL import Image, ImageCms

from zorse_prep.images import BadImage, ImagePolicy, prepare

LOSSLESS = ImagePolicy(max_side=64, min_side=16, lossless=True)
RAMP_12 = RAMP >> 4


def stored(data: bytes, mode: str = "rgb") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(prepare(data, LOSSLESS, mode).data)))


def one_channel(levels: np.ndarray, *how, **named) -> bytes:
    return tiff(levels[..., None], Tiff(*how, **named))


@pytest.mark.parametrize("seed", range(4))
def test_drawn_files_become_what_they_show_or_are_refused(seed):
    """Of all kinds that benchmarks/decoders.py knows, in all modes; other formats than TIFF among them."""
    verdicts = [(drawn.kind, verdict) for drawn in drawn_files(60, seed) for verdict in judge(drawn).values()]
    assert not [kind for kind, verdict in verdicts if verdict == "wrong"]
    refused = [verdict for _, verdict in verdicts if verdict != "right"]
    assert len(refused) < len(verdicts) / 5
    assert all(reason.startswith(("a TIFF of a kind that is not read (", "grey values outside")) for reason in refused)


@pytest.mark.parametrize("order", ["<", ">"])
def test_12_bits_are_not_taken_for_16(order):
    data = one_channel(RAMP_12, 12, order=order)
    assert np.array_equal(stored(data, "grey16"), np.rint(RAMP_12 * (65535 / 4095)))
    assert stored(data).max() == 255 and abs(stored(data) - RAMP_12 / 4095 * 255).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ["none", "deflate"])
def test_white_may_be_0(order, compression):
    how = {"photometric": 0, "order": order, "compression": compression}
    assert np.array_equal(stored(one_channel(RAMP, 16, **how), "grey16"), 65535 - RAMP)
    floats = (RAMP / 65535).astype(np.float32)
    assert (
        abs(stored(one_channel(floats, 32, "float", **how), "grey16").astype(int) - (65535 - RAMP.astype(int))).max()
        <= 1
    )
    eight = (RAMP >> 8).astype(np.uint8)
    assert np.array_equal(stored(one_channel(eight, 8, **how)), 255 - eight)


def test_signed_numbers_are_levels_if_none_is_negative():
    bytes_, words = (RAMP >> 9).astype(np.int8), (RAMP >> 1).astype(np.int16)
    assert np.array_equal(stored(one_channel(bytes_, 8, "signed")), bytes_)
    assert np.array_equal(stored(one_channel(words, 16, "signed"), "grey16"), words)
    for levels, bits in ((bytes_ - 1, 8), (words - 1, 16)):
        with pytest.raises(BadImage, match=r"grey values outside 0 \.\. (255|65535)"):
            prepare(one_channel(levels, bits, "signed"), LOSSLESS)


@pytest.mark.parametrize("separate", [1, 2])
@pytest.mark.parametrize("layout", [{}, {"rows": 7}, {"tile": (16, 16)}])
def test_planes_of_16_bits_are_not_mixed_up(separate, layout):
    deep = PHOTO * np.uint16(257)
    assert np.array_equal(stored(tiff(deep, Tiff(16, photometric=2, planar=separate, **layout))), PHOTO)


def test_palette_of_16_bits_and_one_of_8_in_16():
    palette = np.random.default_rng(0).integers(0, 65536, (65536, 3), dtype=np.uint16)
    assert np.array_equal(stored(one_channel(RAMP, 16, photometric=3, palette=palette)), palette[RAMP] >> 8)
    eight, levels = palette[:256] >> 8, (RAMP >> 8).astype(np.uint8)
    assert np.array_equal(stored(one_channel(levels, 8, photometric=3, palette=eight)), eight[levels])


@pytest.mark.parametrize("bits", [8, 16])
def test_lab_is_converted(bits):
    lab = np.dstack([np.full((40, 60), 160), np.full((40, 60), 30), np.full((40, 60), -50)])  # L*, 0 to 255; a*, b*
    levels = lab.astype(np.int8).view(np.uint8) if bits == 8 else (lab * 256).astype(np.int16).view(np.uint16)
    plain = Image.frombytes("LAB", (60, 40), lab.astype(np.int8).tobytes(), "raw", "LAB")
    to_srgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    truth = np.asarray(ImageCms.applyTransform(plain, to_srgb)).astype(int)
    assert abs(stored(tiff(levels, Tiff(bits, photometric=8))) - truth).max() <= 2


def test_cmyk_with_alpha_lies_on_white():
    inks = np.dstack([np.asarray(Image.fromarray(PHOTO).convert("CMYK")), np.full((40, 60), 255, np.uint8)])
    inks[:20, :, 4] = 0
    result = prepare(tiff(inks, Tiff(photometric=5, extra=(2,))), LOSSLESS)
    assert result.conversions == ["tiff", "cmyk", "alpha"]
    pixels = np.asarray(Image.open(io.BytesIO(result.data))).astype(int)
    assert (pixels[:20] == 255).all() and abs(pixels[20:] - PHOTO[20:]).max() <= 2


def test_chroma_at_half_the_resolution():
    """YCbCr without compression, in blocks of four lumas and one pair of chromas."""
    ycc = np.asarray(Image.fromarray(PHOTO).convert("YCbCr"))
    luma = ycc[..., 0].reshape(20, 2, 30, 2).transpose(0, 2, 1, 3).reshape(20, 30, 4)
    blocks = np.dstack([luma, ycc[::2, ::2, 1:]])
    data = tiff(ycc, Tiff(photometric=6)).replace(
        struct.pack("<HHI2H", 530, 3, 2, 1, 1), struct.pack("<HHI2H", 530, 3, 2, 2, 2)
    )
    data = data.replace(struct.pack("<HHII", 279, 4, 1, ycc.size), struct.pack("<HHII", 279, 4, 1, blocks.size))
    data = data.replace(ycc.tobytes(), blocks.tobytes().ljust(ycc.size, b"\0"))
    assert abs(stored(data).astype(int) - PHOTO).max() <= 2


def test_predictor_means_nothing_without_its_compression():
    data = tiff(PHOTO, Tiff(photometric=2)).replace(
        struct.pack("<HHIH", 317, 3, 1, 1), struct.pack("<HHIH", 317, 3, 1, 2)
    )
    assert np.array_equal(stored(data), PHOTO)


def replaced(data: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """A TIFF with another tag, or another value, in the place of a tag of one 16-bit value; (tag, value)."""
    assert data.count(struct.pack("<HHIH", old[0], 3, 1, old[1])) == 1
    return data.replace(struct.pack("<HHIH", old[0], 3, 1, old[1]), struct.pack("<HHIH", new[0], 3, 1, new[1]))


def unread() -> dict[str, tuple[bytes, str]]:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 5), dtype=np.uint8)
    grey = one_channel((RAMP >> 8).astype(np.uint8))
    ring = bytearray(tiff(PHOTO, Tiff(photometric=2)))
    start = struct.unpack_from("<I", ring, 4)[0]
    link = start + 2 + 12 * struct.unpack_from("<H", ring, start)[0]
    ring[link : link + 4] = struct.pack("<I", start)
    return {
        "bands": (tiff(noise, Tiff(extra=(0, 0, 0, 0))), "5 channels, of which one is grey"),
        "RGB of floats beyond 1": (tiff(PHOTO.astype(np.float32), Tiff(32, "float", 2)), "colour values outside"),
        "RGB of 32 bits": (tiff(PHOTO.astype(np.uint32), Tiff(32, photometric=2)), "3 x 32 bits, whole numbers"),
        "signed RGB": (tiff(PHOTO.view(np.int8), Tiff(8, "signed", 2)), "3 x 8 bits, signed numbers"),
        "grey of 32 bits": (one_channel(RAMP.astype(np.uint32) * 65537, 32), "grey values outside 0 .. 65535"),
        "mask": (replaced(grey, (262, 1), (262, 4)), "photometric interpretation MASK"),
        "raw": (replaced(grey, (339, 1), (50706, 1)), "a camera's raw file"),
        "Canon's raw": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's raw file"),
        "thunderscan": (replaced(grey, (259, 1), (259, 32809)), "compressed by THUNDERSCAN"),
        "ring": (bytes(ring), "its pages form a ring"),
    }  # fmt: skip


@pytest.mark.parametrize("name", unread())
def test_what_is_not_read_is_told(name):
    data, reason = unread()[name]
    with pytest.raises(BadImage) as refused:
        prepare(data, LOSSLESS)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_strip_of_a_huge_size_is_refused_before_it_is_decoded():
    """Tiles of 40000 x 40000 in an image of 60 x 40; and a JPEG that says so of itself."""
    data = tiff(PHOTO, Tiff(photometric=2, tile=(48, 64)))
    for tag, size in ((322, 64), (323, 48)):
        data = data.replace(struct.pack("<HHII", tag, 4, 1, size), struct.pack("<HHII", tag, 4, 1, 40_000))
    with pytest.raises(BadImage, match="million pixels"):
        prepare(data, LOSSLESS)
    data = bytearray(tiff(PHOTO, Tiff(photometric=2, compression="JPEG")))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(BadImage, match="larger than it may be"):
        prepare(bytes(data), LOSSLESS)


def test_no_damaged_tiff_is_an_error_of_ours():
    """Bytes changed at random in headers and directories."""
    whole = [tiff(PHOTO, Tiff(photometric=2, tile=(16, 16))), encode(RAMP, "TIFF"), one_channel(RAMP_12, 12, big=True)]
    rng = np.random.default_rng(0)
    for number in range(150):
        data = bytearray(whole[number % 3])
        at = rng.choice([*range(16), *range(len(data) - 250, len(data))], 3)
        for place in at:
            data[place] = rng.integers(256)
        try:
            prepare(bytes(data), LOSSLESS)
        except BadImage as bad:
            assert "\n" not in str(bad)
