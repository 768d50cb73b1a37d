"""The pool of generated images that discriminators are trained on (section 4, after Shrivastava et al. 2017).

Each slot of the global batch has its own buffer of `size` images, so an image's age in steps is the same at any batch
size, and any split of the slots over ranks and micro-batches takes images of the same steps. With batch 1 this is the
paper's buffer: until it is full, each new image is stored and used; from then on a fair coin decides between using the
new image, and using a random stored one whose place the new image takes.
"""

import torch
from torch import Tensor

from zorse.keyed_random import HISTORY, key


class ImagePool:
    """The buffers of one domain's fakes for the slots that this rank owns.

    slots: the global slots owned, in the order in which the rank meets them. size: images per slot, 0 for no pool.
    image_size: height and width.
    Memory: len(slots) x (size + 1) images. The last place of each slot takes the images that are not kept, so that
    every exchange is one gather and one scatter of fixed shape, with nothing read back from the device.
    """

    def __init__(
        self,
        slots: list[int],
        size: int,
        image_size: tuple[int, int],
        *,
        domain: int,
        seed: int,
        channels: int = 3,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.slots, self.size, self.domain, self.seed = slots, size, domain, seed
        self.rows = {slot: row for row, slot in enumerate(slots)}
        self.stored = [0] * len(slots)
        places = size + 1 if size else 0
        self.images = torch.zeros(len(slots), places, channels, *image_size, device=device, dtype=dtype)

    def plan(self, slots: list[int], positions: list[int]) -> Tensor:
        """Decide, on the host, what happens to the next fakes. int64 [3, n]: row, place, 1 where the old image is used.

        The decision depends on (seed, domain, position) and on how many images the slot has stored, on nothing else.
        Advances that number, so each position is planned once.
        """
        columns = []
        for slot, position in zip(slots, positions, strict=True):
            row = self.rows[slot]
            bits = key(self.seed, self.domain, HISTORY, position)
            if self.stored[row] < self.size:
                columns.append((row, self.stored[row], 0))
                self.stored[row] += 1
            elif self.size and bits & 1:
                columns.append((row, (bits >> 1) % self.size, 1))
            else:
                columns.append((row, self.size, 0))
        plan = torch.tensor(columns, dtype=torch.int64).T.contiguous()
        if self.images.is_cuda:
            plan = plan.pin_memory()
        return plan.to(self.images.device, non_blocking=True)

    def no_plan(self, slots: list[int]) -> Tensor:
        """A plan that keeps none of the next fakes and advances nothing."""
        return torch.tensor([(self.rows[slot], self.size, 0) for slot in slots], device=self.images.device).T

    @torch.no_grad()
    def exchange(self, fakes: Tensor, plan: Tensor) -> Tensor:
        """Store what the plan keeps of `fakes` [n, C, H, W] and return what the discriminator is to judge as fake."""
        if not self.size:
            return fakes
        row, place, use_old = plan
        old = self.images[row, place].to(fakes.dtype)
        self.images[row, place] = fakes.to(self.images.dtype)
        return torch.where(use_old.bool()[:, None, None, None], old, fakes)

    def state(self) -> dict[int, Tensor]:
        """The stored images of each slot: {slot: [stored, C, H, W]}."""
        return {slot: self.images[row, : self.stored[row]] for slot, row in self.rows.items()}

    def load(self, slot: int, images: Tensor) -> None:
        """Fill one slot with the images that `state` gave for it."""
        row = self.rows[slot]
        self.stored[row] = len(images)
        self.images[row, : len(images)] = images.to(self.images)
