"""What the numbers in a TIFF mean: which channel is what, how deep, which number is white; or that it is not known."""

from typing import NamedTuple

from zorse_prep.pixels import BadImage

MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
CHANNELS = {MINISWHITE: 1, MINISBLACK: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
WHOLE_NUMBERS, SIGNED, FLOATS, UNDEFINED = 1, 2, 3, 4  # SampleFormat
NUMBERS = {WHOLE_NUMBERS: "whole numbers", SIGNED: "signed numbers", FLOATS: "floats", 5: "complex", 6: "complex"}
PREMULTIPLIED, STRAIGHT = 1, 2  # ExtraSamples: the kinds of alpha
OLD_JPEG, JPEG, WEBP = 6, 7, 50001
PREDICTING = (5, 8, 32946, 34925, 50000)  # LZW, deflate (two numbers), LZMA, Zstandard
COMPRESSIONS = (1, 2, 3, 4, OLD_JPEG, JPEG, 32773, WEBP, *PREDICTING)  # none, three of fax, ..., PackBits
PHOTOMETRIC, SUBFILES, INKS, DNG = 262, 330, 332, 50706  # tags


class Kind(NamedTuple):
    """What a page's numbers mean.

    colour: photometric interpretation. channels: the places of those that are kept, alpha last where there is one.
    alpha: None, PREMULTIPLIED or STRAIGHT. bits, numbers: the depth of each channel, and its SampleFormat.
    by_libtiff: whether libtiff makes RGB of it, as of YCbCr, of which the chroma may be stored at a lower resolution.
    """

    colour: int
    channels: list[int]
    alpha: int | None
    bits: int
    numbers: int
    by_libtiff: bool = False

    @property
    def is_grey(self) -> bool:
        return self.colour in (MINISWHITE, MINISBLACK)

    @property
    def is_single(self) -> bool:
        """Whether it is grey without alpha, which keeps more than 8 bits."""
        return self.is_grey and self.alpha is None

    @property
    def is_deep_colour(self) -> bool:
        """Whether its channels are brought to 8 bits."""
        return self.bits > 8 and not self.is_single and self.colour != PALETTE


def kind_of(page) -> Kind:
    """The kind of tifffile's page. Raises BadImage, with what the page is, where it is not read."""
    colour, samples, bits, numbers = _colour(page), page.samplesperpixel, page.bitspersample, page.sampleformat
    numbers = WHOLE_NUMBERS if numbers == UNDEFINED else numbers  # as the specification has it
    if DNG in page.tags or (page.is_reduced and SUBFILES in page.tags):
        raise unread("a camera's raw file")
    if page.compression not in COMPRESSIONS:
        raise unread(f"compressed by {getattr(page.compression, 'name', page.compression)}")
    if page.imagedepth > 1:
        raise unread(f"a volume, {page.imagedepth} deep")
    if not isinstance(bits, int) or not isinstance(numbers, int):
        raise unread("channels of different types")
    told = f"{samples} x {bits} bits, {NUMBERS.get(numbers, numbers)}"
    if page.dtype is None or page.dtype.kind == "c":
        raise unread(told)
    if colour not in CHANNELS:
        raise unread(f"photometric interpretation {getattr(colour, 'name', colour)}")
    if colour == SEPARATED and page.tags.valueof(INKS, 1) != 1:
        raise unread(f"{samples} inks other than CMYK")
    if page.compression == OLD_JPEG or colour == YCBCR:
        if samples != 3 or bits != 8:
            raise unread(f"{told}, of YCbCr")
        return Kind(RGB, [0, 1, 2], None, bits, numbers, by_libtiff=True)
    if page.predictor != 1 and page.compression in PREDICTING and bits not in (8, 16, 32, 64):
        raise unread(f"{told}, with a predictor")
    kind = Kind(int(colour), *_channels(page, colour), bits, int(numbers))
    _check_numbers(kind, told)
    return kind


def unread(what: str) -> BadImage:
    return BadImage(f"a TIFF of a kind that is not read ({what}); convert it to an 8- or 16-bit PNG")


def _colour(page) -> int:
    """The photometric interpretation; where none is given, as libtiff guesses it."""
    if PHOTOMETRIC not in page.tags and page.compression != OLD_JPEG:
        return RGB if page.samplesperpixel >= 3 else MINISBLACK
    # The codecs convert to RGB by themselves.
    is_converted = page.compression in (JPEG, WEBP) and page.planarconfig == 1
    return RGB if page.photometric == YCBCR and is_converted else page.photometric


def _channels(page, colour: int) -> tuple[list[int], int | None]:
    """The places of the channels that are kept, and the kind of alpha."""
    samples, own, alpha = page.samplesperpixel, CHANNELS[colour], {}
    for place, what in enumerate(page.extrasamples, own):
        if what in (PREMULTIPLIED, STRAIGHT) and place < samples:
            alpha.setdefault(place, int(what))
    if colour == RGB and samples == 4 and not page.extrasamples:  # nothing is said of the fourth: it is alpha
        alpha = {3: STRAIGHT}
    is_grey = own == 1
    extra = samples - own - (len(alpha) > 0)
    if extra < 0 or extra > (1 if is_grey else 3) or (is_grey and extra and not page.extrasamples):
        raise unread(f"{samples} channels" + (", of which one is grey" if is_grey else ""))
    if page.compression == JPEG and samples > own:
        raise unread(f"{samples} channels in a JPEG")
    places = sorted(alpha)[:1]
    return [*range(own), *places], alpha[places[0]] if places else None


def _check_numbers(kind: Kind, told: str) -> None:
    """Raise BadImage where it is not known which number is white, or what it takes to convert it."""
    is_whole = kind.numbers == WHOLE_NUMBERS
    if kind.is_single:
        if kind.colour == MINISWHITE and (kind.numbers == SIGNED or (is_whole and kind.bits >= 32)):
            raise unread(f"{told}, of which 0 is white")
    elif kind.colour == PALETTE:
        if not is_whole or kind.bits > 16:
            raise unread(f"{told}, of a palette")
    elif kind.numbers == SIGNED or (is_whole and kind.bits > 16):
        raise unread(told)
    elif not kind.is_grey and kind.colour != RGB and (kind.bits not in (8, 16) or not is_whole):
        raise unread(f"{told}, not RGB")
    elif kind.alpha is not None and kind.colour in (MINISWHITE, CIELAB, ICCLAB):
        raise unread(f"{told}, with alpha")
