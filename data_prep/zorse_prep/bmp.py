"""BMPs stored as run lengths: PIL loses a pixel of each run of an odd length where they have 16 colours."""

from PIL import Image

END_OF_LINE, END, JUMP = 0, 1, 2  # what a second byte says behind a first one of 0; else it counts single pixels


def is_runs(image: Image.Image) -> bool:
    """Whether an image that PIL has opened, and not loaded yet, is such a file."""
    return image.format == "BMP" and image.tile[0].codec_name == "bmp_rle"


def read_runs(data: bytes, image: Image.Image) -> Image.Image:
    """The pixels of such a file, in the mode and with the palette that PIL has found. Those that are left out are 0."""
    width, height = image.size
    _, half_bytes, direction = image.tile[0].args
    at, x, y = image.tile[0].offset, 0, 0
    levels = bytearray(width * height)
    # Two bytes at a time: a run, or a command. What would lie outside of the image is dropped.
    while at + 2 <= len(data):
        count, what = data[at : at + 2]
        at += 2
        if count:
            run = bytes((what >> 4, what & 15)) * (count // 2 + 1) if half_bytes else bytes((what,)) * count
        elif what == END_OF_LINE:
            x, y = 0, y + 1
            continue
        elif what == END:
            break
        elif what == JUMP:
            x, y = x + data[at], y + data[at + 1]
            at += 2
            continue
        else:
            count, run = what, data[at : at + ((what + 1) // 2 if half_bytes else what)]
            at += len(run) + len(run) % 2
            run = bytes(level for both in run for level in (both >> 4, both & 15)) if half_bytes else run
        seen = max(0, min(count, width - x, len(run))) if y < height else 0
        levels[y * width + x : y * width + x + seen] = run[:seen]
        x += count
    else:
        if y * width + x < width * height:
            raise OSError("the file is truncated: its last rows are missing")
    # Upright, with the palette.
    found = Image.frombytes(image.mode, image.size, bytes(levels))
    if direction < 0:  # the lowest row comes first
        found = found.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if image.mode == "P":
        found.putpalette(image.palette)
    return found
