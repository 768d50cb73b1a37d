"""Arrays as TIFF, laid out as their source is: of ImageJ, of OME, with a map projection, or plain pages."""

import io

import numpy as np
from tifffile import TiffFile, TiffPage, imwrite, xml2dict

from zorse.inference.image_files import MARK
from zorse_prep.items import TIFF
from zorse_prep.tiff_arrays import CHANNELS, channel_names, layout_of_axes

KEPT_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)  # map projection; GDAL's bands and missing values
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
GREY, SEPARATE, UNCOMPRESSED = (0, 1, 5), 2, 1  # or inks
IMAGEJ_TYPES, IMAGEJ_AXES = ("uint8", "uint16", "float32"), "TZC"
IMAGEJ_KEPT = ("spacing", "unit", "finterval", "fps")
OME_KEPT = (
    *(f"PhysicalSize{axis}{unit}" for axis in "XYZ" for unit in ("", "Unit")),
    *("TimeIncrement", "TimeIncrementUnit"),
)
MOST_INTERLEAVED = 4  # channels that lie side by side where no source says otherwise


def write_tiff(planes: np.ndarray, target: str, source: bytes | None, channels: int | None, axis: int | None) -> bytes:
    """A TIFF of planes [n, C, H, W]; see array_files.write_planes."""
    buffer, told = io.BytesIO(), {"software": MARK.decode(), "metadata": None}
    if source is None or not source.startswith(TIFF):
        _write_pages(buffer, planes, planes.shape[1] > MOST_INTERLEAVED, _is_rgb(planes, None), told)
        return buffer.getvalue()
    with TiffFile(io.BytesIO(source), _multifile=False) as file:
        page, series = file.pages.first, file.series[0]
        layout = layout_of_axes(series.axes, series.shape, channels, axis)
        told |= _resolution(page) | {"extratags": _kept_tags(page)}
        slices = tuple(series.shape[place] for place in layout.slices)
        letters = "".join(series.axes[place] for place in (*layout.slices, layout.rows, layout.columns))
        is_rgb = _is_rgb(planes, page)
        is_cut = any(series.axes[place] in CHANNELS for place in layout.slices)  # along channels
        if not is_cut and int(np.prod(slices)) == len(planes) and (named := _named(file, planes, is_rgb)) is not None:
            axes, values = _in_order(planes, letters, slices, is_rgb)
            imwrite(buffer, values, **told | named | {"metadata": named["metadata"] | {"axes": axes}})
            return buffer.getvalue()
        if page.compression != UNCOMPRESSED:
            told["compression"] = "zlib"
        joined = layout.joined(planes, series.shape)
        if joined is not None and not is_rgb and "S" not in series.axes:  # each plane is a page, in the source's order
            told["metadata"] = {"axes": series.axes} if file.is_shaped else None
            imwrite(buffer, np.ascontiguousarray(joined), photometric="minisblack", **told)
            return buffer.getvalue()
        if layout.channels and page.samplesperpixel == 1:  # each channel is a page
            planes = planes.reshape(-1, 1, *planes.shape[2:])
        _write_pages(buffer, planes, page.planarconfig == SEPARATE, is_rgb, told)
    return buffer.getvalue()


def _is_rgb(planes: np.ndarray, page: TiffPage | None) -> bool:
    """Whether the channels are to be shown as colours."""
    is_colour = planes.shape[1] in (3, 4) and planes.dtype.name in ("uint8", "uint16")
    return is_colour and (page is None or page.photometric not in GREY)


def _write_pages(buffer: io.BytesIO, planes: np.ndarray, separate: bool, is_rgb: bool, told: dict) -> None:
    """Each image one page, its channels side by side or one plane behind the other."""
    count, number, _, _ = planes.shape
    if number == 1:
        values, layout = planes[:, 0], {"photometric": "minisblack"}
    else:
        values = planes if separate else np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        own = 3 if is_rgb else 1
        layout = {
            "photometric": "rgb" if is_rgb else "minisblack", "planarconfig": "separate" if separate else "contig",
            "extrasamples": ("unassalpha",) if is_rgb and number == 4 else (0,) * (number - own),
        }  # fmt: skip
    imwrite(buffer, values if count > 1 else values[0], **layout, **told)


def _named(file: TiffFile, planes: np.ndarray, is_rgb: bool) -> dict | None:
    """How tifffile is told to write ImageJ's or OME's kind, as the source is of; None for any other."""
    photometric = "rgb" if is_rgb else "minisblack"
    is_held = planes.dtype.name == "uint8" and planes.shape[1] == 3 if is_rgb else planes.dtype.name in IMAGEJ_TYPES
    if file.is_imagej and is_held:
        found = file.imagej_metadata or {}
        kept = {name: found[name] for name in IMAGEJ_KEPT if name in found}
        return {"imagej": True, "photometric": photometric, "metadata": kept}
    if file.is_ome or file.is_imagej:  # whose numbers of other types are none that ImageJ's kind holds
        kept = _ome_kept(file.ome_metadata) if file.is_ome else {}
        names = channel_names(file, file.pages.first)
        if names is not None and len(names) == planes.shape[1]:
            kept["Channel"] = {"Name": names}
        return {"ome": True, "photometric": photometric, "metadata": kept}
    return None


def _ome_kept(text: str) -> dict:
    """The sizes of a pixel, and the time between images."""
    image = xml2dict(text)["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    return {name: pixels[name] for name in OME_KEPT if name in pixels}


def _in_order(planes: np.ndarray, letters: str, slices: tuple[int, ...], is_rgb: bool) -> tuple[str, np.ndarray]:
    """Planes with an axis for each letter: those of slices as the source has them, then channels, rows, columns."""
    number, height, width = planes.shape[1:]
    values, letters = planes.reshape(*slices, number, height, width), letters[:-2] + "C" + letters[-2:]
    others = [letter for letter in letters if letter not in "CYX"]
    if set(others) <= set(IMAGEJ_AXES):
        others.sort(key=IMAGEJ_AXES.index)
    wanted = "".join(others) + ("YXC" if is_rgb else "CYX")
    values = values.transpose([letters.index(letter) for letter in wanted])
    if is_rgb:
        return wanted[:-1] + "S", np.ascontiguousarray(values)
    if number == 1:
        wanted, values = wanted.replace("C", ""), values.squeeze(wanted.index("C"))
    return wanted, np.ascontiguousarray(values)


def _kept_tags(page: TiffPage) -> list[tuple]:
    return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in page.tags if tag.code in KEPT_TAGS]


def _resolution(page: TiffPage) -> dict:
    """Pixels per unit, as the source has them."""
    across, down = page.tags.valueof(X_RESOLUTION), page.tags.valueof(Y_RESOLUTION)
    if across is None or down is None:
        return {}
    return {"resolution": (across, down), "resolutionunit": page.tags.valueof(RESOLUTION_UNIT, 1)}
