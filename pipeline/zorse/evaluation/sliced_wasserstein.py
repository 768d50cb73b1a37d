"""The sliced Wasserstein distance between local patches of two sets of images.

After Karras et al. 2018 (arXiv 1710.10196, section 5): from each level of the images' Laplacian pyramids take 7x7
patches, project them on random directions, and average the Wasserstein distances of the projections. It needs no
trained network, sees texture such as stripes at every scale, and is steady with a few dozen images. Not comparable with
FID or KID.
One departure: both sets are normalised by the statistics of the real one, so a shift in colour counts.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from zorse.keyed_random import key

AT_MOST = 256  # images per domain
PATCH = 7
PATCHES = 128  # per image and level
DIRECTIONS = 128
SMALLEST_LEVEL = 16  # pixels
SEED = 1  # of patch positions and directions: the same for every run, so that distances can be compared


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """float [n, 3, H, W] as differences of neighbouring scales, finest first, and the coarsest image last."""
    levels = []
    while min(images.shape[2:]) >= 2 * SMALLEST_LEVEL:
        coarse = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        levels.append(images - F.interpolate(coarse, size=images.shape[-2:], mode="bilinear"))
        images = coarse
    return [*levels, images]


def descriptors(pixels: Tensor, numbers: Iterable[int]) -> Tensor:
    """Patches of uint8 images [n, 3, H, W], at places keyed by their `numbers`: float [n, levels, PATCHES, 3, 7, 7]."""
    levels = laplacian_pyramid(pixels.float() / 255)
    rows = []
    for i, number in enumerate(numbers):
        patches = []
        for depth, level in enumerate(levels):
            generator = torch.Generator().manual_seed(key(SEED, number, depth) >> 1)
            spans = (side - PATCH + 1 for side in level.shape[2:])
            y, x = (torch.randint(span, (PATCHES, 1, 1), generator=generator) for span in spans)
            offset = torch.arange(PATCH)
            patches.append(level[i][:, y + offset.view(-1, 1), x + offset].movedim(0, 1))
        rows.append(torch.stack(patches))
    return torch.stack(rows)


def sliced_wasserstein(real: Tensor, other: Tensor) -> float:
    """Distance between two sets of descriptors; the larger set is cut to the size of the smaller."""
    n = min(len(real), len(other))
    generator = torch.Generator().manual_seed(SEED)
    distances = []
    for depth in range(real.shape[1]):
        mean = real[:, depth].mean(dim=(0, 1, 3, 4), keepdim=True)[0]
        std = real[:, depth].std(dim=(0, 1, 3, 4), keepdim=True)[0].clamp_min(1e-6)  # of images of one colour, 0
        flat = [((x[:n, depth] - mean) / std).flatten(0, 1).flatten(1) for x in (real, other)]
        directions = F.normalize(torch.randn(flat[0].shape[1], DIRECTIONS, generator=generator), dim=0)
        a, b = (torch.sort(x @ directions, dim=0).values for x in flat)
        distances.append((a - b).abs().mean().item())
    return sum(distances) / len(distances)
