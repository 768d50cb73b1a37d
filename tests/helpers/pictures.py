"""Image files of every kind that the image policy knows, made in memory; also those that PIL itself cannot write."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

PHOTO = np.zeros((40, 60, 3), dtype=np.uint8)
PHOTO[:, :30], PHOTO[:, 30:] = (200, 30, 40), (20, 60, 180)
RAMP = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)  # 16-bit grey


def encode(pixels, kind: str = "JPEG", **options) -> bytes:
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    """PHOTO, then green."""
    frames = [Image.fromarray(PHOTO), Image.new("RGB", (60, 40), "green")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)


def turned(kind: str) -> bytes:
    """PHOTO, to be turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(PHOTO, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def with_hole(upper_alpha: int = 0) -> np.ndarray:
    """PHOTO as RGBA, its upper half transparent."""
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:20] = upper_alpha
    return np.dstack([PHOTO, alpha])


def transparent_palette() -> bytes:
    """PHOTO, whose left half is a transparent entry of the palette."""
    image = Image.fromarray(PHOTO).quantize(4)
    return encode(image, "PNG", transparency=image.getpixel((0, 0)))


def ycck() -> bytes:
    """PHOTO as Photoshop writes it: inverted CMYK whose C, M, Y were turned into Y, Cb, Cr; the APP14 flag says so."""
    inks = np.asarray(Image.fromarray(PHOTO).convert("CMYK"))
    luma = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))  # of 255 - (inverted inks), by the format
    stored = np.dstack([luma, 255 - inks[..., 3]])
    # PIL inverts all four channels when it writes, and marks them as plain CMYK.
    data = encode(Image.frombytes("CMYK", (60, 40), (255 - stored).tobytes()), quality=95)
    flag = data.index(b"Adobe") + 11
    assert data[flag] == 0
    return data[:flag] + b"\x02" + data[flag + 1 :]


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB with red and blue exchanged."""
    srgb, swapped = srgb_profile(), bytearray(srgb_profile())
    tags = {srgb[i : i + 4]: i for i in range(132, 132 + 12 * struct.unpack(">I", srgb[128:132])[0], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    swapped[red + 4 : red + 12], swapped[blue + 4 : blue + 12] = srgb[blue + 4 : blue + 12], srgb[red + 4 : red + 12]
    return bytes(swapped)


def png(kind: int, depth: int, size: tuple[int, int], rows: bytes, more: bytes = b"") -> bytes:
    """A PNG of given colour type, bits and (width, height); rows: each with its filter byte; more: further chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep_png(pixels: np.ndarray, more: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, of uint16 [H, W, C]: grey, grey and alpha, colour, colour and alpha."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png({1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]], 16, (pixels.shape[1], pixels.shape[0]), rows, more)


def deep_ppm(pixels: np.ndarray) -> bytes:
    """A binary PPM of 16 bits a channel, of uint16 [H, W, 3]."""
    return b"P6 %d %d 65535\n" % (pixels.shape[1], pixels.shape[0]) + pixels.astype(">u2").tobytes()


def bombs() -> dict[str, bytes]:
    """Small files that claim 60000 x 60000 pixels."""
    side = 60000
    tiff = bytearray(encode(PHOTO, "TIFF"))
    start = struct.unpack("<I", tiff[4:8])[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack("<H", tiff[start : start + 2])[0], 12):
        if struct.unpack("<H", tiff[entry : entry + 2])[0] in (256, 257):  # width, height
            tiff[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    jpeg = bytearray(encode(PHOTO))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    gif, bmp = bytearray(encode(PHOTO, "GIF")), bytearray(encode(PHOTO, "BMP"))
    gif[6:10] = struct.pack("<HH", side, side)
    bmp[18:26] = struct.pack("<ii", side, side)
    return {
        "PNG": png(2, 8, (side, side), b""), "PPM": b"P6 60000 60000 255\n", "TIFF": bytes(tiff), "JPEG": bytes(jpeg),
        "GIF": bytes(gif), "BMP": bytes(bmp),
        "WEBP": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x5f\xea\0" * 2,
    }  # fmt: skip
