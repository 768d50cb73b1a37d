"""The image policy, on a generated file of every kind: what is copied, what becomes of the rest, what is refused."""

import io
import json
import re
import struct
import sys
from collections import Counter

import numpy as np
import pytest
from drawn_files import png as drawn_png
from pictures import (
    PHOTO,
    RAMP,
    animation,
    bombs,
    chunk,
    deep_png,
    deep_ppm,
    encode,
    png,
    srgb_profile,
    swapped_profile,
    transparent_palette,
    turned,
    with_hole,
    ycck,
)
from PIL import Image, JpegImagePlugin
from prep_tools import prep
from running import command, shard

import zorse_prep.pixels
from zorse_prep.images import BadImage, ImagePolicy, Prepared, prepare

POLICY = ImagePolicy(max_side=64, min_side=16)
LOSSLESS = ImagePolicy(max_side=64, min_side=16, lossless=True)
TURNED = np.rot90(PHOTO, -1)
GREY = PHOTO[..., 0]
DEEP = np.repeat(RAMP[..., None], 4, 2)  # grey, in as many channels as are wanted
ON_WHITE = PHOTO.copy()
ON_WHITE[:20] = 255
LEFT_WHITE = PHOTO.copy()
LEFT_WHITE[:, :30] = 255
HALF_RAMP = np.where(RAMP[..., None] == RAMP[5, 5], 65535, RAMP[..., None])  # the level of one pixel is transparent
LARGE = np.repeat(np.repeat(PHOTO, 2, 0), 2, 1)


def rgb(grey) -> np.ndarray:
    """16-bit grey [H, W] as 8-bit RGB."""
    return np.repeat(grey.reshape(40, 60, 1) / 257, 3, 2)


def converted_files() -> dict[str, tuple[bytes, list[str], np.ndarray]]:
    """Files that must be converted: their bytes, the names of the conversions, RGB pixels [H, W, 3]."""
    flag = {"icc_profile": swapped_profile()}
    one_level = chunk(b"tRNS", struct.pack(">H", int(RAMP[5, 5])))
    return {
        **{
            f"turned {kind}": (turned(kind), [kind.lower(), "exif_rotated"], TURNED) for kind in ("PNG", "TIFF", "WEBP")
        },
        "turned JPEG": (turned("JPEG"), ["exif_rotated"], TURNED),
        "CMYK JPEG": (encode(Image.fromarray(PHOTO).convert("CMYK"), quality=95), ["cmyk"], PHOTO),
        "YCCK JPEG": (ycck(), ["cmyk"], PHOTO),
        "CMYK TIFF": (encode(Image.fromarray(PHOTO).convert("CMYK"), "TIFF"), ["tiff", "cmyk"], PHOTO),
        **{
            f"16-bit grey {kind}": (encode(RAMP, kind), [kind.lower(), "deep_grey"], rgb(RAMP))
            for kind in ("PNG", "TIFF", "PPM")
        },
        "float grey TIFF": (encode((RAMP / 65535).astype(np.float32), "TIFF"), ["tiff", "deep_grey"], rgb(RAMP)),
        "16-bit grey PNG with a hole": (
            deep_png(RAMP[..., None], one_level), ["png", "deep_grey", "alpha"], rgb(HALF_RAMP)
        ),
        "16-bit RGB PNG": (deep_png(DEEP[..., :3]), ["png", "deep_colour"], rgb(RAMP)),
        "16-bit RGB PPM": (deep_ppm(DEEP[..., :3]), ["ppm", "deep_colour"], rgb(RAMP)),
        "16-bit RGB PNG with a hole": (
            deep_png(PHOTO * np.uint16(257), chunk(b"tRNS", (PHOTO[0, 0] * np.uint16(257)).astype(">u2").tobytes())),
            ["png", "deep_colour", "alpha"],
            LEFT_WHITE,
        ),
        "RGBA PNG": (encode(with_hole(), "PNG"), ["png", "alpha"], ON_WHITE),
        "RGBA WebP": (encode(with_hole(), "WEBP", lossless=True), ["webp", "alpha"], ON_WHITE),
        "transparent palette": (transparent_palette(), ["png", "alpha"], LEFT_WHITE),
        "grey and alpha": (
            encode(Image.fromarray(np.dstack([GREY, with_hole()[..., 3]]), "LA"), "PNG"),
            ["png", "alpha"],
            np.where(with_hole()[..., 3:], GREY[..., None], 255).repeat(3, 2),
        ),
        **{
            f"animated {kind}": (animation(kind), [kind.lower(), "first_frame"], PHOTO)
            for kind in ("GIF", "PNG", "WEBP", "TIFF")  # TIFF: pages
        },
        "colour profile": (encode(PHOTO, quality=95, **flag), ["icc"], PHOTO[..., ::-1]),
        "colour profile in a PNG": (encode(PHOTO, "PNG", **flag), ["png", "icc"], PHOTO[..., ::-1]),
        "large JPEG": (encode(LARGE, quality=95), ["reduced"], np.asarray(Image.fromarray(LARGE).resize((64, 43), 3))),
        **{kind: (encode(PHOTO, kind), [kind.lower()], PHOTO) for kind in ("PNG", "TIFF", "BMP", "PPM", "GIF")},
        "WebP": (encode(PHOTO, "WEBP", lossless=True), ["webp"], PHOTO),
        "1-bit TIFF": (encode(Image.fromarray(GREY).convert("1", dither=0), "TIFF"), ["tiff"],
                       np.where(GREY[..., None] > 127, 255, 0).repeat(3, 2)),
    }  # fmt: skip


def decoded(result: Prepared) -> Image.Image:
    """The stored image; the statistics must be those of its levels, its kind the one that is claimed."""
    image = Image.open(io.BytesIO(result.data))
    assert {"JPEG": "jpg", "PNG": "png"}[image.format] == result.extension and image.size == result.size
    levels = np.asarray(image).astype(int).reshape(image.height, image.width, -1)
    if len(result.sums) == 3:
        levels = levels.repeat(3 // levels.shape[2], 2)
    assert result.sums == levels.sum((0, 1)).tolist()
    assert result.square_sums == (levels**2).sum((0, 1)).tolist()
    return image


def assert_near(image: Image.Image, pixels: np.ndarray) -> None:
    found = np.asarray(image.convert("RGB")).astype(float)
    assert found.shape == pixels.shape and abs(found - pixels).mean() < 4


# --- what becomes of a file ---


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"icc_profile": srgb_profile()}])
@pytest.mark.parametrize("pixels", [PHOTO, GREY], ids=["colour", "grey"])
def test_good_jpeg_is_copied(pixels, options):
    data = encode(pixels, **options)
    for policy in (POLICY, LOSSLESS):
        result = prepare(data, policy)
        assert (result.data, result.conversions) == (data, [])
        decoded(result)


def test_good_jpeg_with_a_camera_s_trailer_is_copied():
    data = encode(PHOTO) + b"SEFH" + bytes(300)
    assert prepare(data, POLICY)[:3] == (data, "jpg", [])


@pytest.mark.parametrize("name", converted_files())
@pytest.mark.fault(15)
def test_conversion(name):
    data, conversions, pixels = converted_files()[name]
    result = prepare(data, POLICY)
    assert result.conversions == conversions
    image = decoded(result)
    assert_near(image, pixels)
    assert image.mode in ("L", "RGB") and not image.info.keys() & {"icc_profile", "exif", "comment"}
    assert image.mode == "L" or JpegImagePlugin.get_sampling(image) == 0  # 4:4:4


@pytest.mark.parametrize("name", converted_files())
def test_lossless_conversion(name):
    data, conversions, pixels = converted_files()[name]
    result = prepare(data, LOSSLESS)
    stays_png = name in ("PNG", "turned PNG", "animated PNG", "colour profile in a PNG")
    assert result.extension == "png" and result.conversions == conversions[stays_png:]
    assert_near(decoded(result), pixels)


def test_lossless_keeps_every_pixel():
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for kind in ("TIFF", "BMP", "PPM", "WEBP"):
        data = encode(noise, kind, **({"lossless": True} if kind == "WEBP" else {}))
        assert (np.asarray(decoded(prepare(data, LOSSLESS))) == noise).all()


def test_good_png_is_copied_if_lossless():
    for data in (encode(PHOTO, "PNG"), encode(GREY, "PNG"), encode(PHOTO, "PNG", icc_profile=srgb_profile())):
        assert prepare(data, LOSSLESS)[:3] == (data, "png", [])
    few_levels = png(0, 4, (40, 20), b"".join(b"\0" + b"\x0f" * 20 for _ in range(20)))
    for data in (encode(Image.fromarray(PHOTO).quantize(4), "PNG"), few_levels):
        result = prepare(data, LOSSLESS)
        assert result.extension == "png" and result.conversions == ["png"] and result.data != data


def test_nothing_is_enlarged_and_the_longest_side_counts():
    assert prepare(encode(PHOTO), ImagePolicy(60, 16)).conversions == []
    for turn in (LARGE, LARGE.transpose(1, 0, 2)):
        result = prepare(encode(turn), ImagePolicy(30, 16))
        assert result.conversions == ["reduced"] and sorted(result.size) == [20, 30]


def test_16_bit_colour_loses_its_lower_half_and_no_more():
    levels = np.asarray(decoded(prepare(deep_png(DEEP[..., :3]), LOSSLESS)))
    assert (levels == RAMP[..., None] >> 8).all()


@pytest.mark.parametrize("mode", ["rgb", "grey", "rgba", "grey16"])
def test_large_image_is_converted_in_bands_as_a_small_one_is_at_once(mode, monkeypatch):
    whole = {name: outcome(data, mode) for name, (data, _, _) in converted_files().items()}
    monkeypatch.setattr(zorse_prep.pixels, "BAND", 7 * 60)
    assert {name: outcome(data, mode) for name, (data, _, _) in converted_files().items()} == whole


def outcome(data: bytes, mode: str):
    return prepare(data, LOSSLESS, mode)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_large_image_takes_little_more_than_its_pixels(kind, tmp_path):
    """49 million pixels: of 16 bits, or of 4 bytes with alpha."""
    image = Image.new("I;16", (7000, 7000), 999) if kind == "grey" else Image.new("RGBA", (7000, 7000), (9, 9, 9, 9))
    (tmp_path / "large.png").write_bytes(encode(image, "PNG", compress_level=1))
    code = (
        "import sys; from pathlib import Path; from zorse_prep.images import ImagePolicy, prepare\n"
        "prepare(Path(sys.argv[1]).read_bytes(), ImagePolicy(1024, 16))\n"
        "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    done = command([sys.executable, "-c", code, tmp_path / "large.png"])
    assert int(done.stdout.split()[1]) * 1024 < (3 if kind == "grey" else 9) * 49e6 + 200e6, done.stderr


# --- modes ---


@pytest.mark.parametrize("policy", [POLICY, LOSSLESS], ids=["jpeg", "png"])
def test_grey(policy):
    data = encode(GREY)
    assert prepare(data, policy, "grey")[:3] == (data, "jpg", [])
    for data, conversions in (
        (encode(PHOTO), ["colour"]),
        (encode(RAMP, "PNG"), ["png", "deep_grey"]),
        (encode(with_hole(), "PNG"), ["png", "colour", "alpha"]),
        (encode(PHOTO, icc_profile=swapped_profile()), ["colour", "icc"]),
    ):
        result = prepare(data, policy, "grey")
        image = decoded(result)
        assert result.conversions == conversions and image.mode == "L" and len(result.sums) == 1
        assert result.extension == ("png" if policy.lossless else "jpg")
    assert abs(np.asarray(image).astype(int) - np.asarray(Image.fromarray(PHOTO[..., ::-1]).convert("L"))).mean() < 4


def test_grey_in_lossless_copies_grey_png():
    data = encode(GREY, "PNG")
    assert prepare(data, LOSSLESS, "grey")[:3] == (data, "png", [])


@pytest.mark.fault(15)
def test_rgba():
    data = encode(with_hole(100), "PNG")
    result = prepare(data, POLICY, "rgba")
    assert result[:3] == (data, "png", [])
    assert np.array_equal(decoded(result), with_hole(100))
    opaque = np.dstack([PHOTO, np.full((40, 60), 255)])
    level = chunk(b"tRNS", struct.pack(">H", int(RAMP[5, 5])))
    shades = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60, 1) % 16
    colour = np.repeat(RAMP[..., None], 3, 2)
    grey_hole = np.dstack([GREY, GREY, GREY, np.where(GREY[0, 0] == GREY, 0, 255)])
    swapped = with_hole(100)[..., [2, 1, 0, 3]]
    files = (
        (encode(PHOTO, quality=95), ["jpeg", "opaque"], opaque),
        (encode(PHOTO, "PNG"), ["png", "opaque"], opaque),
        (encode(GREY, "PNG", transparency=int(GREY[0, 0])), ["png"], grey_hole),
        (
            drawn_png(shades.astype(np.uint8), 4, transparent=(3,)),
            ["png"],
            np.dstack([shades * 17] * 3 + [255 * (shades != 3)]),
        ),
        (deep_png(RAMP[..., None], level), ["png", "deep_grey"], np.dstack([rgb(RAMP), 255 * (RAMP[5, 5] != RAMP)])),
        (
            drawn_png(colour, 16, transparent=colour[5, 5]),
            ["png", "deep_colour"],
            np.dstack([colour >> 8, 255 * (RAMP[5, 5] != RAMP)]),
        ),
        (encode(with_hole(100), "WEBP", lossless=True, exact=True), ["webp"], with_hole(100)),
        (encode(with_hole(100), "PNG", icc_profile=swapped_profile()), ["icc"], swapped),
        (encode(RAMP, "PNG"), ["png", "opaque", "deep_grey"], np.dstack([rgb(RAMP), np.full((40, 60), 255)])),
    )
    for data, conversions, pixels in files:
        result = prepare(data, POLICY, "rgba")
        image = decoded(result)
        assert result.conversions == conversions and image.mode == "RGBA" and len(result.sums) == 4
        assert abs(np.asarray(image).astype(float) - pixels).mean((0, 1)).max() < 4
        assert Image.open(io.BytesIO(data)).format != "PNG" or (np.asarray(image)[..., 3] == pixels[..., 3]).all()
    reduced = prepare(encode(with_hole(), "PNG"), ImagePolicy(30, 16), "rgba")
    assert reduced.conversions == ["reduced"] and decoded(reduced).getpixel((3, 18)) == (200, 30, 40, 255)


@pytest.mark.fault(15)
def test_grey16():
    data = encode(RAMP, "PNG")
    result = prepare(data, POLICY, "grey16")
    assert result[:3] == (data, "png", []) and np.array_equal(decoded(result), RAMP)
    eight = RAMP >> 8
    big_endian = encode(Image.frombytes("I;16B", (60, 40), RAMP.astype(">u2").tobytes()), "TIFF")
    hole = chunk(b"tRNS", struct.pack(">H", int(RAMP[5, 5])))
    files = (
        (encode(RAMP, "TIFF"), ["tiff"], RAMP),
        (big_endian, ["tiff"], RAMP),
        (encode(RAMP, "PPM"), ["ppm"], RAMP),
        (encode((RAMP / 65535).astype(np.float32), "TIFF"), ["tiff", "deep_grey"], RAMP),
        (encode(eight.astype(np.uint8), "PNG"), ["png", "shallow_grey"], eight * 257),
        (deep_png(DEEP[..., :3]), ["png", "deep_colour", "shallow_grey", "colour"], eight * 257),
        (deep_png(RAMP[..., None], hole), ["alpha"], HALF_RAMP[..., 0]),
    )
    for data, conversions, pixels in files:
        result = prepare(data, POLICY, "grey16")
        image = decoded(result)
        assert result.conversions == conversions and image.mode == "I;16" and len(result.sums) == 1
        assert np.array_equal(image, pixels), conversions
    reduced = prepare(encode(RAMP.repeat(8, 0).repeat(8, 1), "PNG"), POLICY, "grey16")
    mean = reduced.sums[0] / reduced.size[0] / reduced.size[1]
    assert reduced.conversions == ["reduced"] and reduced.size == (64, 43) and abs(mean - RAMP.mean()) < 100


def test_profile_that_16_bit_grey_cannot_take_is_counted():
    """A grey profile of gamma 1, made from sRGB's: header, white point and one curve without points."""
    white = b"XYZ \0\0\0\0" + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0\0\0\0\0"
    description = b"desc\0\0\0\0\0\0\0\x02l\0" + bytes(78)
    parts = ((b"desc", description), (b"wtpt", white), (b"kTRC", curve))
    table, body = struct.pack(">I", len(parts)), b""
    for name, part in parts:
        table += name + struct.pack(">II", 128 + 4 + 12 * len(parts) + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    profile = bytearray(srgb_profile()[:128] + table + body)
    profile[:4], profile[16:20] = struct.pack(">I", len(profile)), b"GRAY"
    profile = bytes(profile)
    data = encode(RAMP, "PNG", icc_profile=profile)
    result = prepare(data, POLICY, "grey16")
    assert result.conversions == ["icc_ignored"] and np.array_equal(decoded(result), RAMP)
    assert prepare(encode(GREY, "PNG", icc_profile=profile), POLICY, "grey16").conversions == [
        "png", "shallow_grey", "icc"
    ]  # fmt: skip


# --- what is refused ---


def truncated_kinds() -> dict[str, bytes]:
    smooth = np.asarray(Image.fromarray(RAMP[:5, :5].astype(np.uint8)).resize((64, 64), 3).convert("RGB")).copy()
    smooth[20:40, 20:40] = PHOTO[:20, 20:40]
    grey = smooth[..., 0]
    assert animation("TIFF").endswith(bytes(4))  # the padding to 16 bytes, which nobody misses
    return {
        "JPEG": encode(smooth), "progressive JPEG": encode(smooth, progressive=True), "grey JPEG": encode(grey),
        "PNG": encode(smooth, "PNG"), "16-bit PNG": encode(RAMP, "PNG"), "APNG": animation("PNG"),
        "GIF": encode(smooth, "GIF"), "animated GIF": animation("GIF"),
        "BMP": encode(smooth, "BMP"), "PPM": encode(smooth, "PPM"), "16-bit PGM": encode(RAMP, "PPM"),
        "WebP": encode(smooth, "WEBP"), "lossless WebP": encode(smooth, "WEBP", lossless=True),
        "animated WebP": animation("WEBP"), "TIFF": encode(smooth, "TIFF"), "many pages": animation("TIFF")[:-4],
        "16-bit TIFF": encode(RAMP, "TIFF"), "big TIFF": encode(smooth, "TIFF", big_tiff=True),
        **{f"TIFF {how}": encode(smooth, "TIFF", compression=how)
           for how in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")},
        "TIFF group4": encode(Image.fromarray(grey).convert("1"), "TIFF", compression="group4"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", truncated_kinds())
@pytest.mark.fault(15)
def test_no_truncated_file_is_accepted(kind):
    """Cut anywhere in its last bytes, and at many places before; also with zeros for what is missing."""
    whole = truncated_kinds()[kind]
    prepare(whole, POLICY)
    cuts = [*range(len(whole) - 1, len(whole) - 40, -1), *range(len(whole) - 40, 0, -max(1, len(whole) // 40))]
    for cut in cuts:
        with pytest.raises(BadImage):
            prepare(whole[:cut], POLICY)
        if "JPEG" in kind or "PNG" in kind:
            with pytest.raises(BadImage):
                prepare(whole[:cut] + bytes(max(len(whole) - cut, 70_000)), POLICY)


def test_tiff_whose_writer_was_stopped_is_refused():
    """Strips that were not reached have the offset 0; libtiff makes them black."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    data = bytearray(encode(noise, "TIFF", compression="tiff_lzw"))
    image = Image.open(io.BytesIO(data))
    assert len(image.tag_v2[273]) > 1
    for tag in (273, 279):  # offsets, byte counts
        last = struct.pack("<II", *image.tag_v2[tag][-2:])
        at = data.index(last) + 4
        data[at : at + 4] = bytes(4)
    with pytest.raises(BadImage, match="a strip or tile is missing"):
        prepare(bytes(data), ImagePolicy(300, 16))


def refused_files() -> dict[str, tuple[bytes, str]]:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    flipped = bytearray(encode(noise, "PNG"))
    flipped[-30] ^= 1  # in the checksums after the pixels, which the decoder does not read
    return {
        "empty.jpg": (b"", "empty file"),
        "page.jpg": (b"<html>404 not found</html>", "not an image"),
        "vector.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 60\n", "not an image"),
        "cut.jpg": (encode(noise)[:-200], "cannot be decoded"),
        "small.jpg": (encode(PHOTO[:15]), "60x15 is too small"),
        "thin.jpg": (
            encode(np.zeros((20, 1000), np.uint8)),
            "1000x20 is too small .* --max-side has reduced it to 64x1",
        ),
        "cut.jp2": (encode(PHOTO, "JPEG2000")[:-40], "cannot be decoded: "),
        "other.psd": (b"8BPS\0\1" + bytes(20), "a Photoshop file, which is not read"),
        "other.heic": (b"\0\0\0\x18ftypheic" + bytes(20), "cannot be decoded: "),
        "dicom.jpg": (bytes(128) + b"DICM" + bytes(20), "a DICOM file: numbers without a known white; give --range-a"),
        "too_bright.tif": (encode(np.full((20, 20), 1.5, np.float32), "TIFF"), "grey values outside 0 .. 1"),
        "nan.tif": (encode(np.full((20, 20), np.nan, np.float32), "TIFF"), "grey values outside 0 .. 1"),
        "too_deep.tif": (encode(np.full((20, 20), 70_000, np.int32), "TIFF"), "grey values outside 0 .. 65535"),
        "flipped.png": (bytes(flipped), "cannot be decoded"),
        **{f"bomb.{kind.lower()}": (data, "million pixels") for kind, data in bombs().items()},
    }


@pytest.mark.parametrize("name", refused_files())
@pytest.mark.parametrize("mode", ["rgb", "grey16"])
@pytest.mark.fault(15, 18)
def test_bad_image_is_refused_with_its_reason(name, mode):
    data, reason = refused_files()[name]
    with pytest.raises(BadImage, match=reason):
        prepare(data, POLICY, mode)


# --- in the manifest ---


def write_all(folder, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name.replace(" ", "_")).write_bytes(data)


def test_manifest_counts_each_conversion_and_names_each_refusal(tmp_path):
    files, refused = converted_files(), refused_files()
    write_all(tmp_path / "in" / "trainA", {f"{name}.img.jpg": data for name, (data, _, _) in files.items()})
    (tmp_path / "in" / "trainA" / "good.jpg").write_bytes(encode(PHOTO))
    write_all(
        tmp_path / "in" / "trainB", {**{name: data for name, (data, _) in refused.items()}, "z.jpg": encode(PHOTO)}
    )
    out = shard(tmp_path / "in", tmp_path / "out", "--max-side", "64", "--max-corrupt", "1", "--workers", "1")
    splits = json.loads((out / "manifest.json").read_text())["splits"]
    assert splits["trainA"]["samples"] == len(files) + 1
    assert splits["trainA"]["converted"] == Counter(name for _, names, _ in files.values() for name in names)
    assert splits["trainB"]["samples"] == 1
    found = {
        entry["file"].removeprefix("trainB/"): entry["reason"] for entry in splits["trainB"]["quarantined"]["first"]
    }
    assert found.keys() == refused.keys() and all(re.search(refused[name][1], found[name]) for name in refused)


def test_modes_of_the_domains(tmp_path):
    write_all(tmp_path / "in" / "trainA", {"1.jpg": encode(PHOTO), "2.png": encode(with_hole(), "PNG")})
    write_all(tmp_path / "in" / "trainB", {"1.png": encode(RAMP, "PNG"), "2.jpg": encode(PHOTO)})
    write_all(tmp_path / "in" / "testB", {"1.png": encode(RAMP, "PNG")})
    out = shard(tmp_path / "in", tmp_path / "out", "--mode-a", "rgba", "--mode-b", "grey16", "--workers", "1")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["modes"] == {"a": "rgba", "b": "grey16"}
    splits = manifest["splits"]
    assert splits["trainA"]["converted"] == {"jpeg": 1, "opaque": 1}
    assert splits["trainB"]["converted"] == {"colour": 1, "jpeg": 1, "shallow_grey": 1}
    assert splits["trainA"]["statistics"]["pixel_mean"][3] == pytest.approx(0.75)
    assert splits["testB"]["statistics"]["pixel_mean"] == pytest.approx([RAMP.mean() / 65535], abs=1e-6)
    assert splits["testB"]["statistics"]["pixel_std"] == pytest.approx([RAMP.std() / 65535], abs=1e-6)
    import webdataset

    stored = [
        sample["png"]
        for entry in splits["testB"]["shards"]
        for sample in webdataset.WebDataset(str(out / entry["name"]), shardshuffle=False)
    ]
    assert stored == [encode(RAMP, "PNG")]


def test_data_that_uses_little_of_its_range_is_told(tmp_path):
    """12 bits in 16, as microscopes write them, beside what uses all 16."""
    rng = np.random.default_rng(0)
    for split, most in (("trainA", 4096), ("trainB", 65536)):
        noise = [rng.integers(0, most, (40, 40)).astype(np.uint16) for _ in range(3)]
        write_all(tmp_path / "in" / split, {f"{n}.tif": encode(levels, "TIFF") for n, levels in enumerate(noise)})
    for mode in ("rgb", "grey16"):
        modes = ("--mode-a", mode, "--mode-b", mode)
        done = prep("--source", tmp_path / "in", "--out", tmp_path / mode, *modes, "--workers", "1")
        told = [line for line in done.stdout.splitlines() if line.startswith("warning: train")]
        what = "trainA: 3 of 3 images hold more than 8 bits" if mode == "rgb" else "trainA is dark"
        assert len(told) == 1 and what in told[0] and "--range-a percentiles" in told[0], done
