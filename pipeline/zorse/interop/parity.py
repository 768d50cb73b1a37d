"""Does an exported network compute what the original does?"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zorse.errors import UserError, first_sentence


class ParityCheck:
    """Whether an exported network still computes what the original does in float32, on images of several sizes."""

    def __init__(self, network: nn.Module, sizes: list[tuple[int, int, int, int]], tolerance: float):
        self.sizes, self.tolerance = sizes, tolerance
        images = [smooth_noise(size, seed) for seed, size in enumerate(sizes)]
        with torch.no_grad():
            self.expected = [(image, network(image)) for image in images]

    def __call__(self, name: str, load: Callable[[], Callable[[Tensor], Tensor]]) -> dict:
        """What was measured. load: gives what runs it. Raises UserError where it cannot be run, or differs too much."""
        try:
            run = load()
            with torch.no_grad():
                made = [(run(image), original) for image, original in self.expected]
        except Exception as error:  # of runtimes that we know little about
            raise UserError(
                f"{name}: cannot be run here ({first_sentence(error)}); drop it, or change --precision"
            ) from None
        apart = [(one - other).abs().max() if one.shape == other.shape else torch.inf for one, other in made]
        largest = torch.tensor(apart).max().item()  # NaN if any is
        if not largest <= self.tolerance:
            raise UserError(
                f"{name}: differs from PyTorch by up to {largest:.2g}, more than --tolerance {self.tolerance:g}; "
                "give another --precision or a higher tolerance"
            )
        return {"value": largest, "tolerance": self.tolerance, "sizes": self.sizes, "from": "PyTorch, float32 on a CPU"}


def smooth_noise(size: tuple[int, int, int, int], seed: int) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] of coarse and fine structure, a flat area among it."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*size[:2], 8, 8, generator=random) * 3 - 1.5
    images = nn.functional.interpolate(coarse, size[2:], mode="bicubic") + 0.1 * torch.randn(size, generator=random)
    images[..., : size[2] // 4, : size[3] // 4] = 1
    return images.clamp(-1, 1)


def sizes_to_check(channels: int, crop: int, multiple: int, smallest: int) -> list[tuple[int, int, int, int]]:
    """[N, C, H, W]: the crops of training, and others in shape and number; also than what a graph is traced with.

    multiple, smallest: of sides that the graph takes.
    """

    def whole(side: float) -> int:
        return max(smallest, round(side / multiple) * multiple)

    return [
        (1, channels, whole(crop), whole(crop)),
        (1, channels, whole(1.25 * crop), whole(0.75 * crop)),
        (3, channels, whole(0.5 * crop), whole(0.5 * crop) + multiple),
    ]
