"""Whether image files become what they show: python benchmarks/decoders.py [FOLDER] [--files 1500] [--seed 0].

Draws files of many kinds of TIFF, PNG, BMP and WebP from numbers that are known, and holds what would be stored of each
against these numbers; so is what two other decoders, libvips and OpenCV, make of them (pip install pyvips[binary]
opencv-python-headless). A file is right, or refused with a reason, or wrong. The exit code is 1 if one is wrong.
FOLDER: files of your own instead, held against the decoders alone.
"""

import argparse
import io
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from drawn_kinds import Drawn, drawn_files, expected
from PIL import Image
from rich.console import Console
from rich.table import Table

from zorse_prep.images import BadImage, ImagePolicy, prepare

POLICY = ImagePolicy(max_side=30_000, min_side=1, lossless=True)
MODES = ("rgb", "grey", "rgba", "grey16")
ONE = 1 / 255  # of 8 bits


# --- what is stored, what it should be, what others make of it ---


def stored(data: bytes, mode: str) -> np.ndarray:
    """The pixels that are stored, 0 to 1. Raises BadImage."""
    image = Image.open(io.BytesIO(prepare(data, POLICY, mode).data))
    pixels = np.asarray(image.convert("RGB") if mode == "rgb" else image)
    return pixels / (65535 if mode == "grey16" else 255)


def by_libvips(data: bytes) -> np.ndarray:
    """RGB on white, 0 to 1. Raises pyvips.Error for what libvips does not read."""
    import pyvips

    image = pyvips.Image.new_from_buffer(data, "", fail_on="error").autorot()
    if image.get_typeof("icc-profile-data"):
        image = image.icc_transform("srgb")
    if image.format in ("float", "double", "dpcomplex"):  # it leaves open what is white
        pixels = image.numpy() if image.bands > 1 else image.numpy()[..., None].repeat(3, 2)
        return expected(pixels, "rgb") if image.bands == 4 else pixels[..., :3]
    image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    return image.cast("uchar").numpy()[..., :3] / 255


def by_opencv(data: bytes) -> np.ndarray:
    """RGB on white, 0 to 1. Raises ValueError for what OpenCV does not read."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    as_it_is, image = (
        cv2.imdecode(np.frombuffer(data, np.uint8), how) for how in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR)
    )
    if image is None:
        raise ValueError("not read")
    if as_it_is is not None and as_it_is.ndim == 3 and as_it_is.shape[2] == 4:
        pixels = as_it_is[..., [2, 1, 0, 3]] / np.iinfo(as_it_is.dtype).max
        return expected(pixels, "rgb")
    return image[..., ::-1] / 255


DECODERS = {"libvips": by_libvips, "OpenCV": by_opencv}


def is_near(pixels: np.ndarray, truth: np.ndarray, allowed: float) -> bool:
    """Whether no level is off by more than 2.5 of 255, or, where a kind loses something, the mean by more than that."""
    if pixels.shape != truth.shape:
        return False
    if pixels.ndim == 3 and pixels.shape[2] == 4:  # the colour of what cannot be seen is nobody's
        pixels, truth = (np.where(truth[..., 3:] > 0, values, values * (0, 0, 0, 1)) for values in (pixels, truth))
    off = abs(pixels - truth)
    return bool(off.max() <= 2.5 * ONE or off.mean() <= allowed * ONE)


def agreement(data: bytes, pixels: np.ndarray, allowed: float) -> dict[str, str]:
    """What each decoder makes of a file, against these RGB pixels: "agrees", "differs" or "not read"."""
    found = {}
    for name, decoder in DECODERS.items():
        try:
            found[name] = "agrees" if is_near(decoder(data), pixels, max(allowed, 1.0)) else "differs"
        except ImportError as missing:
            sys.exit(f"error: {missing.name} is missing; run: pip install pyvips[binary] opencv-python-headless")
        except Exception:  # whatever they raise, it is their way to say so
            found[name] = "not read"
    return found


# --- the tables ---


def judge(drawn: Drawn) -> dict[str, str]:
    """{mode: "right", "wrong" or the reason of the refusal}."""
    verdicts = {}
    for mode in MODES:
        try:
            near = is_near(stored(drawn.data, mode), expected(drawn.truth, mode), drawn.allowed)
            verdicts[mode] = "right" if near else "wrong"
        except BadImage as bad:
            verdicts[mode] = str(bad)
    return verdicts


def show_drawn(count: int, seed: int) -> int:
    """The table of drawn files; returns how many are wrong."""
    rows, reasons = defaultdict(Counter), Counter()
    for drawn in drawn_files(count, seed):
        row = rows[drawn.kind]
        row["files"] += 1
        verdicts = judge(drawn)
        for verdict in verdicts.values():
            row[verdict if verdict in ("right", "wrong") else "refused"] += 1
        if (reason := verdicts["rgb"]) not in ("right", "wrong"):
            reasons[reason] += 1
        for name, says in agreement(drawn.data, expected(drawn.truth, "rgb"), drawn.allowed).items():
            row[f"{name} {says}"] += 1
    table = Table(
        title="what is stored, in four modes, against what was drawn; other decoders, in RGB, against the same"
    )
    for name in ("kind", "files", "right", "refused", "wrong", *DECODERS):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, row in sorted(rows.items()):
        others = [
            " ".join(f"{row[f'{name} {says}']}" for says in ("agrees", "differs", "not read")) for name in DECODERS
        ]
        table.add_row(kind, *(str(row[name]) for name in ("files", "right", "refused", "wrong")), *others)
    total = sum(rows.values(), Counter())
    Console(width=140).print(table, f"agrees, differs, not read. {len(rows)} kinds; in all: {dict(total)}", sep="\n")
    for reason, files in reasons.most_common():
        print(f"refused {files:4d}: {reason}")
    return total["wrong"]


def show_folder(folder: Path) -> int:
    """Files of a folder against the decoders; returns how many are unlike what any decoder makes of them."""
    counts = Counter()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        try:
            says = agreement(data, stored(data, "rgb"), 3.0)
        except BadImage as bad:
            counts["refused"] += 1
            print(f"refused: {path.relative_to(folder)}: {bad}")
            continue
        alone = "differs" in says.values() and "agrees" not in says.values()
        counts[
            "differs from all that read it" if alone else "agrees" if "agrees" in says.values() else "read here alone"
        ] += 1
        if alone:
            print(f"differs: {path.relative_to(folder)}: {says}")
    print(dict(counts))
    return counts["differs from all that read it"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = show_folder(options.folder) if options.folder else show_drawn(options.files, options.seed)
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
