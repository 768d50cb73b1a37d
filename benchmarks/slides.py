"""What statistics its norms need for a large image: python benchmarks/slides.py RUN [--crops 96] [--animals 6].

RUN: of networks with instance norms, its shards still there. Prints, for each way to take the statistics of the norms,
- the sliced Wasserstein distance of translated test images, as a multiple of that with statistics of the image;
- the levels (of 255) between a test image on a slide of 4 x 4, its other cells blank or test images too, and the same
  image translated alone with its own statistics, 8 pixels at its edges left out: for 16, 8, 4 and 1 images on the
  slide, and for one that lies across the grid of cells.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zorse.checkpoints.load import load_trained
from zorse.cyclegan.layers import Norm, activate
from zorse.cyclegan.resnet import Generator
from zorse.data.dataset import numbered_images, open_shards
from zorse.data.loader import pair_batches
from zorse.data.order import RankSlice
from zorse.data.pixels import to_network, to_pixels
from zorse.directions import Direction
from zorse.evaluation.evaluator import Evaluation
from zorse.ops.fused_norm import EPS

BLANK, CELLS, EDGE = 245, 4, 8
FILLED = (16, 8, 4, 1)
ALONE = RankSlice(0, 1, 1, 1)
Moments = tuple[Tensor, Tensor]  # mean and logarithm of the variance, [N, C]
Statistics = Callable[[int, Tensor], tuple[Tensor, Tensor]]  # of a norm's number and input: mean, variance [N, C, 1, 1]


def of_image(_: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's: of each channel of each image."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    return mean, variance


def translated(generator: Generator, x: Tensor, statistics: Statistics) -> Tensor:
    """generator(x), its norms with other statistics than their input's."""
    norms = [module for module in generator.modules() if isinstance(module, Norm)]

    def norm(number: int) -> Callable[..., Tensor]:
        def forward(x: Tensor, slope: float, pad: int = 0, residual: Tensor | None = None) -> Tensor:
            mean, variance = statistics(number, x)
            return activate((x - mean) * torch.rsqrt(variance + EPS), slope, pad, residual)

        return forward

    for number, module in enumerate(norms):
        module.forward = norm(number)
    try:
        return generator(x)
    finally:
        for module in norms:
            del module.forward


def gathered(generator: Generator, images: Tensor) -> list[Moments]:
    """Of each norm: what every image has when it is translated by itself. images: pixels [N, C, H, W]."""
    found: dict[int, list[Moments]] = {}

    def statistics(number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = of_image(number, x)
        found.setdefault(number, []).append((mean.flatten(1), (variance + EPS).log().flatten(1)))
        return mean, variance

    for part in images.split(8):
        translated(generator, to_network(part, "cpu", torch.float32), statistics)
    return [tuple(torch.cat(values) for values in zip(*found[number], strict=True)) for number in sorted(found)]


class Training:
    """The statistics that crops of training have, by their mean and deviation. each: see gathered."""

    def __init__(self, each: list[Moments]):
        self.mean_variance = [(mean.mean(0), log.exp().mean(0)) for mean, log in each]
        self.spread = [tuple((values.mean(0), values.std(0) + 1e-8) for values in moments) for moments in each]

    def of_training(self, number: int, _: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.mean_variance[number]
        return mean[:, None, None], variance[:, None, None]

    def held(self, most: float) -> Statistics:
        """Those of the image, but no further than so many deviations from the mean of training."""

        def statistics(number: int, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, variance = of_image(number, x)
            found = []
            for values, (middle, deviation) in zip((mean, (variance + EPS).log()), self.spread[number], strict=True):
                middle, deviation = middle[:, None, None], deviation[:, None, None]
                found.append(values.clamp(middle - most * deviation, middle + most * deviation))
            return found[0], found[1].exp() - EPS

        return statistics

    def unlike(self, each: list[Moments]) -> Tensor:
        """How unlike training's images are, [N]: the mean of squared z-scores, each at most 25. About 1 for its own."""
        scores = [
            ((values - middle) / deviation).square().clamp(max=25)
            for moments, spread in zip(each, self.spread, strict=True)
            for values, (middle, deviation) in zip(moments, spread, strict=True)
        ]
        return torch.cat(scores, 1).mean(1)


class OfPatches:
    """Statistics of patches of a training crop's size, each translated by itself, interpolated between their centres.

    (Dense normalization: Ho et al. 2024, arXiv 2407.04245.) trust: 0 for that alone; more to give patches that are
    unlike training crops less weight, exp(-trust (unlike - 1)), and where no other is near, the mean of training's.
    """

    def __init__(self, generator: Generator, pixels: Tensor, training: Training, size: int, stride: int, trust: float):
        self.sides = pixels.shape[-2:]
        starts = [range(0, max(side - size, 0) + 1, stride) for side in self.sides]
        patches = [pixels[..., y : y + size, x : x + size] for y in starts[0] for x in starts[1]]
        each = gathered(generator, torch.cat(patches))
        self.grid = [len(line) for line in starts]
        self.weight = torch.exp(-trust * (training.unlike(each) - 1).clamp(min=0)).view(self.grid)
        self.centres = [torch.tensor(list(line)) + size / 2 for line in starts]
        self.each, self.training, self.stride = each, training, stride

    def __call__(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        down, across = (self._weights(axis, x.shape[2 + axis]) for axis in (0, 1))
        few = 1e-4  # what training's mean weighs beside patches
        total = down @ self.weight @ across.T + few
        found = []
        for values, (middle, _) in zip(self.each[number], self.training.spread[number], strict=True):
            weighed = values.T.reshape(-1, *self.grid) * self.weight
            found.append((down @ weighed @ across.T + few * middle[:, None, None]) / total)
        return found[0], found[1].exp() - EPS

    def _weights(self, axis: int, count: int) -> Tensor:
        """Of each patch for each row or column of a layer, [count, patches], linear in the distance from its centre."""
        centres = self.centres[axis]
        at = ((torch.arange(count) + 0.5) * self.sides[axis] / count).clamp(centres[0], centres[-1])
        return (1 - (at[:, None] - centres).abs() / self.stride).clamp(min=0)


def slides(images: Tensor, filled: int, count: int, size: int) -> list[tuple[Tensor, int, int]]:
    """Slides with so many images, and where on each the k-th image is (top, left); 0 filled: one across the cells."""
    made, rng = [], np.random.default_rng(0)
    for k in range(count):
        slide = torch.full((images.shape[1], CELLS * size, CELLS * size), BLANK, dtype=images.dtype)
        places = [divmod(int(cell), CELLS) for cell in rng.permutation(CELLS**2)[: max(filled, 1)]]
        places = [(y * size, x * size) for y, x in places] if filled else [(size + size // 8, size + size // 16)]
        for j, (y, x) in enumerate(places):
            slide[:, y : y + size, x : x + size] = images[(k + j) % len(images)]
        made.append((slide, *places[0]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--crops", type=int, default=96, help="of training, whose statistics are gathered")
    parser.add_argument("--animals", type=int, default=6, help="test images that are looked for on slides")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    trained = load_trained(args.run)
    config, shards = trained.config, open_shards(trained.config.data.path)
    size = config.images.crop_size
    how = {"seed": config.optimization.seed, "lanes": 1, "start": 0, "workers": 0, "pin": False}
    batches = pair_batches(shards, config.images, ALONE, **how)
    pairs = [next(batches) for _ in range(args.crops)]
    batches.close()
    # What statistics training crops have, of each norm of both generators.
    training = {
        way: Training(gathered(trained.generators[way], torch.cat([pair[way.source] for pair in pairs])))
        for way in Direction
    }

    def translate(way: Direction, pixels: Tensor, statistics_of: Callable[[Direction, Tensor], Statistics]) -> Tensor:
        found = []
        for part in pixels.split(1):
            x = to_network(part, "cpu", torch.float32)
            y = translated(trained.generators[way], x, statistics_of(way, part))
            found.append(to_pixels(y, shards.modes[way.target]))
        return torch.cat(found)

    def of_patches(stride: int, trust: float) -> Callable[[Direction, Tensor], Statistics]:
        return lambda way, pixels: OfPatches(trained.generators[way], pixels, training[way], size, stride, trust)

    methods = {
        "of the image": lambda way, _: of_image,
        "mean of training": lambda way, _: training[way].of_training,
        "of the image, within 1 deviation of training": lambda way, _: training[way].held(1),
        "of the image, within 2 deviations": lambda way, _: training[way].held(2),
        "of patches, side by side (dense normalization)": of_patches(size, 0),
        "of patches, half overlapping": of_patches(size // 2, 0),
        "of patches side by side, by trust": of_patches(size, 3),
        "of patches half overlapping, by trust": of_patches(size // 2, 3),
    }
    # A row for each way: distances of test images, then how far off one of them is on each kind of slide.
    evaluation = Evaluation(shards, (size, size), ALONE, lambda x: x, network=None)
    splits, first = {"a": shards.test_a, "b": shards.test_b}, None
    columns = [
        "statistics of the norms",
        "distance a to b, b to a",
        *(f"{n} on the slide" for n in FILLED),
        "across cells",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, statistics_of in methods.items():
        measured = evaluation(lambda way, pixels, of=statistics_of: translate(Direction(way), pixels, of))
        distances = [measured[way]["sliced_wasserstein"] for way in Direction]
        first = first or distances
        cells = [", ".join(f"{distance / base:.2f}" for distance, base in zip(distances, first, strict=True))]
        for filled in (*FILLED, 0):
            levels = []
            for way in Direction:
                images, _ = numbered_images(splits[way.source], range(CELLS**2), (size, size))
                off = []
                for k, (slide, y, x) in enumerate(slides(images, filled, args.animals, size)):
                    alone = translate(way, images[k][None], methods["of the image"])[0]
                    there = translate(way, slide[None], statistics_of)[0, :, y : y + size, x : x + size]
                    inside = (..., slice(EDGE, -EDGE), slice(EDGE, -EDGE))
                    off.append((there[inside].float() - alone[inside].float()).abs().mean().item())
                levels.append(f"{np.mean(off):.1f}")
            cells.append(", ".join(levels))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
