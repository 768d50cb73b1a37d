"""Scenes as two kinds of sensor see them: the drawings of the zoo (drawn_sets.py).

Each function takes a generator of random numbers and a size (height, width), and returns the same scene twice, as
domain a and as domain b show it: uint8 [H, W] or [H, W, 3], or numbers in a unit of their own, [H, W, C]. Scenes are a
function of the generator alone and never change, since results are compared across versions.
"""

import numpy as np
from PIL import Image, ImageDraw

Size = tuple[int, int]
Pair = tuple[np.ndarray, np.ndarray]
Rng = np.random.Generator
FINER = 2  # shapes are drawn this many times larger, then reduced

# Strokes of the ten digits, in a box of 1 x 2.
DIGITS = (
    "0,0 1,0 1,2 0,2 0,0",
    "0.2,0.4 0.6,0 0.6,2",
    "0,0.2 0.5,0 1,0.3 1,0.8 0,2 1,2",
    "0,0 1,0 0.5,0.9 1,1.4 0.5,2 0,1.8",
    "0.8,2 0.8,0 0,1.3 1,1.3",
    "1,0 0,0 0,0.9 0.7,0.9 1,1.4 0.6,2 0,1.8",
    "0.9,0 0.2,0.8 0,1.5 0.5,2 1,1.6 0.6,1.1 0.1,1.3",
    "0,0 1,0 0.4,2",
    "0.5,0.9 0,0.5 0.5,0 1,0.5 0.5,0.9 0,1.5 0.5,2 1,1.5 0.5,0.9",
    "0.9,0.8 0.4,0.9 0,0.4 0.5,0 1,0.5 0.9,1 0.4,2",
)


def levels(values: np.ndarray) -> np.ndarray:
    """Colours of 0 to 255 as they are stored."""
    return np.rint(values.clip(0, 255)).astype(np.uint8)


def noise(rng: Rng, size: Size, cell: float, octaves: int = 1) -> np.ndarray:
    """Smooth random values of mean 0 and variance about 1, whose details are `cell` pixels wide, halved per octave."""
    total, weight = np.zeros(size, np.float32), 0.0
    for octave in range(octaves):
        step = max(1.0, cell / 2**octave)
        coarse = rng.standard_normal((int(size[0] / step) + 3, int(size[1] / step) + 3)).astype(np.float32)
        fine = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        total += np.asarray(fine) / 2**octave
        weight += 4.0**-octave
    return total * (1.4 / weight**0.5)


class Canvas:
    """A plane on which shapes are drawn; `mask` gives those drawn so far, 0 to 1, with smooth edges."""

    def __init__(self, size: Size):
        self.size = size
        self.image = Image.new("L", (size[1] * FINER, size[0] * FINER))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points, value: int = 255) -> None:
        self.draw.polygon([(x * FINER, y * FINER) for x, y in points], fill=value)

    def line(self, points, width: float, value: int = 255) -> None:
        path = [(x * FINER, y * FINER) for x, y in points]
        self.draw.line(path, fill=value, width=max(1, round(width * FINER)), joint="curve")

    def ellipse(self, x: float, y: float, radius: float, stretch: float = 1.0, turn: float = 0.0) -> None:
        self.polygon(ring(x, y, radius, stretch, turn))

    def mask(self) -> np.ndarray:
        reduced = self.image.resize((self.size[1], self.size[0]), Image.Resampling.BOX)
        return np.asarray(reduced, np.float32) / 255


def ring(x: float, y: float, radius: float, stretch: float = 1.0, turn: float = 0.0) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    along, across = radius * stretch * np.cos(angles), radius / stretch * np.sin(angles)
    c, s = np.cos(turn), np.sin(turn)
    return list(zip(x + along * c - across * s, y + along * s + across * c, strict=True))


def blend(below: np.ndarray, mask: np.ndarray, above) -> np.ndarray:
    """Paint `above`, a colour or an image, over [H, W, C] where the mask [H, W] is 1."""
    return below + mask[..., None] * (np.asarray(above, np.float32) - below)


def plain(size: Size, colour) -> np.ndarray:
    return np.broadcast_to(np.asarray(colour, np.float32), (*size, len(colour)))


def textured(rng: Rng, size: Size, colour, amount: float, cell: float = 6, octaves: int = 3) -> np.ndarray:
    """A colour whose brightness varies."""
    return plain(size, colour) + amount * noise(rng, size, cell, octaves)[..., None]


def _land(rng: Rng, size: Size) -> dict[str, np.ndarray]:
    """Masks of parks, water, streets, main roads and houses, seen from above."""
    height, width = size
    layers = {name: Canvas(size) for name in ("park", "water", "street", "road", "house")}
    turn, block = rng.uniform(-0.5, 0.5), rng.uniform(0.22, 0.35) * min(size)
    c, s = np.cos(turn), np.sin(turn)

    def place(u: float, v: float) -> tuple[float, float]:
        return width / 2 + u * c - v * s, height / 2 + u * s + v * c

    reach = int(max(size) / block) + 2
    for i in range(-reach, reach):
        for j in range(-reach, reach):
            # A block is a park, or has houses along its edges.
            u, v = i * block, j * block
            if rng.random() < 0.16:
                layers["park"].polygon(
                    [place(u, v), place(u + block, v), place(u + block, v + block), place(u, v + block)]
                )
                continue
            for _ in range(4):
                x, y = u + rng.uniform(0.15, 0.7) * block, v + rng.uniform(0.15, 0.7) * block
                w, h = rng.uniform(0.12, 0.25, 2) * block
                layers["house"].polygon([place(x, y), place(x + w, y), place(x + w, y + h), place(x, y + h)])
    far = reach * block
    for i in range(-reach, reach):
        kind, wide = ("road", 0.045) if i % 3 == 0 else ("street", 0.028)
        layers[kind].line([place(i * block, -far), place(i * block, far)], wide * min(size))
        layers["street"].line([place(-far, i * block), place(far, i * block)], 0.028 * min(size))
    if rng.random() < 0.4:
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        layers["water"].ellipse(x, y, rng.uniform(0.15, 0.35) * min(size), rng.uniform(1, 1.5), rng.uniform(0, 3))
    masks = {name: canvas.mask() for name, canvas in layers.items()}
    masks["house"] = masks["house"] * (1 - masks["water"]) * (1 - np.maximum(masks["street"], masks["road"]))
    masks["park"] = masks["park"] * (1 - masks["water"])
    return masks


def maps(rng: Rng, size: Size) -> Pair:
    """Aerial photographs, and the bright street maps of the same ground."""
    land = _land(rng, size)
    ground = textured(rng, size, (118, 112, 92), 14)
    ground = blend(ground, land["park"], textured(rng, size, (62, 88, 52), 18, 4))
    ground = blend(ground, land["water"], textured(rng, size, (38, 58, 70), 4, 12))
    for name, grey in (("street", 96), ("road", 84)):
        ground = blend(ground, land[name] * (1 - land["water"]), textured(rng, size, (grey, grey, grey), 6, 2))
    roof = (150, 96, 76) if rng.random() < 0.5 else (142, 142, 146)
    ground = blend(ground, np.roll(land["house"], (2, 2), (0, 1)) * 0.5, (20, 20, 24))
    ground = blend(ground, land["house"], textured(rng, size, roof, 8, 3))
    street_map = blend(plain(size, (242, 239, 233)), land["park"], (205, 235, 190))
    street_map = blend(street_map, land["house"], (226, 222, 214))
    street_map = blend(street_map, land["water"], (170, 211, 223))
    street_map = blend(street_map, land["street"], (255, 255, 255))
    return levels(ground), levels(blend(street_map, land["road"], (255, 225, 120)))


def fluorescence(rng: Rng, size: Size) -> Pair:
    """Cells in phase contrast, 8-bit grey, and their stained nuclei: 12 bits in 16, dark."""
    bodies, nuclei = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for _ in range(max(4, int(size[0] * size[1] / 1400))):
        x, y, radius = rng.uniform(0, size[1]), rng.uniform(0, size[0]), rng.uniform(8, 13)
        stretch, turn = rng.uniform(1, 1.4), rng.uniform(0, 3)
        body, nucleus = Canvas(size), Canvas(size)
        body.ellipse(x, y, radius, stretch, turn)
        nucleus.ellipse(x + rng.uniform(-2, 2), y + rng.uniform(-2, 2), radius * 0.55, stretch, turn)
        bodies = np.maximum(bodies, body.mask())
        nuclei = np.maximum(nuclei, nucleus.mask() * rng.uniform(0.4, 1))
    halo = np.roll(bodies, 2, 0) - bodies + np.roll(bodies, -2, 1) - bodies
    phase = 124 + 40 * halo - 22 * bodies * (1 + 0.4 * noise(rng, size, 3)) - 28 * nuclei + 3 * noise(rng, size, 1)
    light = 110 + 8 * rng.standard_normal(size) + nuclei * (2600 + 350 * noise(rng, size, 3))
    return levels(phase), light.clip(0, 4095).astype(np.uint16)


def fields(rng: Rng, size: Size) -> Pair:
    """Fields, woods, water and towns: reflectance in 13 bands (uint16, 1e-4), and radar in 2 (float32, dB)."""
    kinds = ("field", "crop", "wood", "water", "town")
    middles = rng.uniform(0, 1, (14, 2)) * size
    down, across = np.mgrid[: size[0], : size[1]]
    wobble = 3 * noise(rng, size, 9), 3 * noise(rng, size, 9)
    distance = [(down + wobble[0] - y) ** 2 + (across + wobble[1] - x) ** 2 for y, x in middles]
    of = rng.integers(0, len(kinds), len(middles))[np.argmin(distance, 0)]
    # Reflectance rises behind the red edge (band 6) where there is chlorophyll; water is dark throughout.
    band = np.arange(13)
    red_edge = 1 / (1 + np.exp(-(band - 5.5) * 2))
    spectra = np.array([
        900 + 60 * band + 900 * red_edge, 500 + 3300 * red_edge, 300 + 2100 * red_edge - 40 * band,
        500 - 35 * band, 1500 + 90 * band,
    ])  # fmt: skip
    backscatter = np.array([[-12, -19], [-10, -16], [-8, -13], [-21, -27], [-2, -9]], np.float32)
    brightness = 1 + 0.12 * noise(rng, size, 5, 2)[..., None]
    optical = (spectra[of] * brightness + 20 * rng.standard_normal((*size, 13))).clip(1, 10000)
    speckle = 10 * np.log10(rng.gamma(4, 0.25, (*size, 2)))
    return optical.astype(np.uint16), (backscatter[of] + speckle).astype(np.float32)


def thermal(rng: Rng, size: Size) -> Pair:
    """A street with people and cars: colour, and temperature in 1/100 K (uint16, of which little is used)."""
    height, width = size
    horizon = int(height * rng.uniform(0.35, 0.5))
    sky = np.zeros(size, np.float32)
    sky[:horizon] = 1
    colour = blend(textured(rng, size, (96, 98, 92), 10), sky, textured(rng, size, (150, 176, 206), 8, 30))
    kelvin = 288 - 14 * sky + 0.6 * noise(rng, size, 12, 2)
    for warm, many in ((34, 4), (18, 3)):
        for _ in range(rng.integers(1, many + 1)):
            canvas, x, foot = Canvas(size), rng.uniform(0, width), rng.uniform(horizon + 8, height)
            tall = (foot - horizon) * rng.uniform(0.7, 1.1) + 8
            if warm == 34:  # a person
                canvas.line([(x, foot), (x, foot - 0.7 * tall)], 0.25 * tall)
                canvas.ellipse(x, foot - 0.85 * tall, 0.13 * tall)
                coat = rng.uniform(30, 200, 3)
            else:
                canvas.polygon(
                    [
                        (x, foot),
                        (x + 1.4 * tall, foot),
                        (x + 1.2 * tall, foot - 0.5 * tall),
                        (x + 0.2 * tall, foot - 0.5 * tall),
                    ]
                )
                coat = rng.uniform(20, 230, 3)
            colour = blend(colour, canvas.mask(), textured(rng, size, coat, 6))
            kelvin = kelvin + canvas.mask() * (273 + warm - kelvin) * 0.8
    return levels(colour), np.rint(100 * kelvin).astype(np.uint16)


def stains(rng: Rng, size: Size) -> Pair:
    """A piece of tissue on a mostly blank slide, stained by two laboratories."""
    tissue = Canvas(size)
    tissue.ellipse(
        rng.uniform(0.2, 0.8) * size[1], rng.uniform(0.2, 0.8) * size[0], rng.uniform(0.2, 0.32) * min(size),
        rng.uniform(1, 1.6), rng.uniform(0, 3),
    )  # fmt: skip
    where = (tissue.mask() * (noise(rng, size, 14, 2) > -0.9)).astype(np.float32)
    nuclei = Canvas(size)
    for _ in range(int(size[0] * size[1] / 160)):
        nuclei.ellipse(
            rng.uniform(0, size[1]),
            rng.uniform(0, size[0]),
            rng.uniform(1.8, 3.2),
            rng.uniform(1, 1.4),
            rng.uniform(0, 3),
        )
    nuclei, fibres = nuclei.mask() * where, where * (0.7 + 0.25 * noise(rng, size, 5, 3)).clip(0.2, 1.4)

    # Beer and Lambert: what two dyes leave of white light.
    def stained(haematoxylin, eosin, white: float) -> np.ndarray:
        density = nuclei[..., None] * np.array(haematoxylin) + fibres[..., None] * np.array(eosin)
        return white * np.exp(-density)

    return levels(stained((0.9, 1.1, 0.4), (0.1, 0.6, 0.2), 244)), levels(
        stained((1.5, 1.2, 0.5), (0.3, 0.5, 0.05), 232)
    )


def digits(rng: Rng, size: Size) -> Pair:
    """A digit, white on black; and coloured, on a coloured ground, with others cut off at the sides."""
    height, width = size
    scale, slant = 0.34 * height * rng.uniform(0.85, 1.1), rng.uniform(-0.15, 0.15)

    def strokes(middle: float) -> np.ndarray:
        canvas = Canvas(size)
        points = [tuple(map(float, point.split(","))) for point in DIGITS[rng.integers(10)].split()]
        at = [(middle + (x - 0.5 + slant * (1 - y)) * scale * 0.9, height / 2 + (y - 1) * scale) for x, y in points]
        canvas.line(at, 0.09 * height)
        return canvas.mask()

    digit = strokes(width / 2)
    beside = np.maximum(strokes(width / 2 - 1.5 * scale), strokes(width / 2 + 1.5 * scale))
    ground, ink = rng.uniform(40, 215, 3), rng.uniform(0, 1, 3)
    ink = np.where(ground.mean() > 128, 90 * ink, 165 + 90 * ink)
    number = blend(textured(rng, size, ground, 6, 16), np.maximum(digit, beside), ink)
    return levels(255 * digit), levels(number + 3 * rng.standard_normal((*size, 3)))


def line_art(rng: Rng, size: Size) -> Pair:
    """Shaded things on a table, and their outlines in black on white."""
    photo = textured(rng, size, rng.uniform(90, 190, 3), 8, 20)
    lines = np.full(size, 255, np.float32)
    down = np.mgrid[: size[0], : size[1]][0] / size[0]
    for _ in range(rng.integers(3, 7)):
        x, y, radius = rng.uniform(0, size[1]), rng.uniform(0, size[0]), rng.uniform(0.08, 0.24) * min(size)
        outline = ring(x, y, radius, rng.uniform(1, 1.5), rng.uniform(0, 3))[:: int(rng.choice([1, 6, 8]))]
        body, edge = Canvas(size), Canvas(size)
        body.polygon(outline)
        edge.line([*outline, *outline[:2]], 2)
        photo = blend(photo, np.roll(body.mask(), (4, 4), (0, 1)) * 0.45, (24, 20, 20))
        photo = blend(
            photo, body.mask(), textured(rng, size, rng.uniform(30, 230, 3), 7) * (1.25 - 0.5 * down)[..., None]
        )
        lines = np.minimum(lines + 255 * body.mask(), 255) * (1 - edge.mask())
    return levels(photo), levels(np.repeat(lines[..., None], 3, 2))


def day_night(rng: Rng, size: Size) -> Pair:
    """A row of houses by day and by night, when some windows are lit."""
    height, width = size
    street = height * rng.uniform(0.72, 0.85)
    below = np.zeros(size, np.float32)
    below[int(street) :] = 1
    day = blend(textured(rng, size, (158, 190, 228), 10, 40), below, textured(rng, size, (120, 118, 112), 8))
    lamps, x = np.zeros(size, np.float32), -rng.uniform(0, 20)
    while x < width:
        wide, tall = rng.uniform(0.18, 0.35) * width, rng.uniform(0.3, 0.65) * height
        wall, glass = Canvas(size), Canvas(size)
        wall.polygon([(x, street), (x, street - tall), (x + wide, street - tall), (x + wide, street)])
        day = blend(day, wall.mask(), textured(rng, size, rng.uniform(110, 210, 3), 6))
        # Windows of the same wall are lit or dark by the colour of its glass, so that night follows from day.
        for up in np.arange(0.12, 0.85, 0.25):
            for along in np.arange(0.15, 0.8, 0.3):
                left, top = x + along * wide, street - tall + up * tall
                glass.polygon(
                    [
                        (left, top),
                        (left + 0.16 * wide, top),
                        (left + 0.16 * wide, top + 0.13 * tall),
                        (left, top + 0.13 * tall),
                    ]
                )
        lit = rng.random() < 0.5
        day = blend(day, glass.mask(), (70, 60, 40) if lit else (60, 74, 92))
        lamps = lamps * (1 - wall.mask()) + glass.mask() * lit
        x += wide
    night = day * (0.16, 0.18, 0.28) + (4, 5, 14)
    return levels(day), levels(blend(night, lamps, (250, 210, 120)))


def leaves(rng: Rng, size: Size) -> Pair:
    """A tree in summer and in autumn."""
    trunk, crown = Canvas(size), np.zeros(size, np.float32)
    x, foot = rng.uniform(0.4, 0.6) * size[1], 0.92 * size[0]
    trunk.line([(x, foot), (x, 0.5 * size[0])], 0.07 * size[1])
    for _ in range(7):
        leaf = Canvas(size)
        leaf.ellipse(
            x + rng.uniform(-0.2, 0.2) * size[1], rng.uniform(0.22, 0.55) * size[0], rng.uniform(0.12, 0.2) * size[1]
        )
        crown = np.maximum(crown, leaf.mask())
    sky = textured(rng, size, (170, 200, 230), 6, 20)
    sky[int(0.88 * size[0]) :] = (112, 140, 80)
    shade = 22 * noise(rng, size, 4, 2)[..., None]
    scenes = []
    for colour in ((58, 118, 44), (206, 112, 36)):
        scenes.append(levels(blend(blend(sky, trunk.mask(), (84, 62, 46)), crown, plain(size, colour) + shade)))
    return scenes[0], scenes[1]


def prints(rng: Rng, size: Size) -> Pair:
    """A landscape in colour, and as an old brown print, faded at its edges."""
    height, width = size
    down, across = np.mgrid[: size[0], : size[1]].astype(np.float32)
    photo = textured(rng, size, (150, 185, 225), 8, max(size) / 4)
    for ridge, colour in ((0.45, (98, 116, 140)), (0.6, (72, 104, 70)), (0.78, (120, 120, 70))):
        line = height * (ridge + 0.05 * noise(rng, (1, width), width / 5, 3)[0])
        cover = (down - line[None]).clip(0, 1)
        photo = blend(photo, cover, textured(rng, size, np.array(colour) + rng.uniform(-15, 15, 3), 9, max(size) / 30))
    grey = photo @ np.array([0.299, 0.587, 0.114], np.float32)
    edge = np.minimum.reduce([down, across, height - down, width - across]) / (0.2 * min(size))
    faded = 60 + 0.62 * grey + 50 * (1 - edge).clip(0, 1)
    return levels(photo), levels(faded[..., None] * np.array([1.08, 0.95, 0.74]))


def showers(rng: Rng, size: Size) -> Pair:
    """Particle showers in 5 layers, energies as float32 of a wide range; simulated by two programs."""
    down, across = np.mgrid[: size[0], : size[1]]
    energy = np.zeros((*size, 5), np.float32)
    for _ in range(rng.integers(3, 8)):
        y, x, total, depth = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.exponential(40), rng.uniform(0.5, 3)
        distance = (down - y) ** 2 + (across - x) ** 2
        for layer in range(5):
            spread = 2 + 1.5 * layer
            energy[..., layer] += (
                total * np.exp(-((layer - depth) ** 2) / 3) * np.exp(-distance / (2 * spread**2)) / spread
            )
    first = energy + 0.02 * np.abs(rng.standard_normal(energy.shape))
    second = 0.8 * np.where(energy > 0.05, energy, 0) ** 0.9 + 0.05 * np.abs(rng.standard_normal(energy.shape))
    return first.astype(np.float32), second.astype(np.float32)


def simulation(rng: Rng, size: Size) -> Pair:
    """A driver's view, rendered flat; and as a camera would have it, with texture, shade, blur and noise."""
    height, width = size
    horizon = height * rng.uniform(0.4, 0.5)
    ground, road = Canvas(size), Canvas(size)
    ground.polygon([(0, horizon), (width, horizon), (width, height), (0, height)])
    far = width * rng.uniform(0.35, 0.65)
    road.polygon([(far - 2, horizon), (far + 2, horizon), (width * 1.05, height), (-0.05 * width, height)])
    flat = blend(blend(plain(size, (120, 180, 255)), ground.mask(), (60, 170, 60)), road.mask(), (110, 110, 110))
    real = blend(textured(rng, size, (188, 200, 212), 8, 40), ground.mask(), textured(rng, size, (88, 100, 60), 16, 4))
    real = blend(real, road.mask(), textured(rng, size, (92, 90, 88), 7, 3))
    for _ in range(rng.integers(1, 4)):
        near, side = rng.uniform(0.15, 0.9), rng.uniform(-0.4, 0.4)
        box, y = Canvas(size), horizon + near * (height - horizon)
        x, half = far + side * width * near, 0.12 * width * near + 3
        box.polygon([(x - half, y), (x - half, y - 1.3 * half), (x + half, y - 1.3 * half), (x + half, y)])
        number = rng.integers(3)
        flat = blend(flat, box.mask(), ((230, 40, 40), (40, 60, 230), (240, 220, 40))[number])
        shade = textured(rng, size, ((128, 46, 44), (50, 58, 96), (168, 150, 84))[number], 9, 8)
        real = blend(real, np.roll(box.mask(), 3, 0) * 0.5, (30, 28, 26))
        real = blend(real, box.mask(), shade)
    real = real * (1.05 - 0.25 * np.mgrid[: size[0], : size[1]][0] / height)[..., None]
    return levels(flat), levels(real + 4 * rng.standard_normal((*size, 3)))


def head(rng: Rng, size: Size, slices: int) -> Pair:
    """A volume [slices, H, W] of a head: CT in HU (int16), and MR without a unit (float32, its scale by chance)."""
    height, width = size
    x, y, radius = (
        width * rng.uniform(0.45, 0.55),
        height * rng.uniform(0.45, 0.55),
        0.4 * min(size) * rng.uniform(0.85, 1),
    )
    stretch, scale = rng.uniform(1.0, 1.15), rng.uniform(300, 1200)
    bias = 1 + 0.2 * noise(rng, size, min(size) / 1.5)
    ventricle = rng.uniform(0.15, 0.3)
    ct, mr = [], []
    for z in np.linspace(-0.8, 0.8, slices):
        now = radius * (1 - z**2) ** 0.5 + 3
        skin, bone, brain, fluid = (Canvas(size) for _ in range(4))
        for canvas, part in ((skin, 1.0), (bone, 0.93), (brain, 0.84), (fluid, ventricle * (1 - abs(z)))):
            canvas.ellipse(x, y, now * part, stretch)
        folds = noise(rng, size, 6, 2)
        white = brain.mask() * (folds > 0)
        hu, weighted = np.full(size, -1000.0, np.float32), np.zeros(size, np.float32)
        for mask, units, signal in (
            (skin.mask(), -60, 0.9), (bone.mask(), 1100, 0.06), (brain.mask(), 36, 0.45), (white, 28, 0.62),
            (fluid.mask(), 8, 0.14),
        ):  # fmt: skip
            hu, weighted = hu + mask * (units - hu), weighted + mask * (signal - weighted)
        ct.append(hu + 9 * rng.standard_normal(size))
        mr.append(
            scale * np.hypot(weighted * bias + 0.02 * rng.standard_normal(size), 0.02 * rng.standard_normal(size))
        )
    return np.rint(np.stack(ct)).clip(-1024, 3071).astype(np.int16), np.stack(mr).astype(np.float32)
