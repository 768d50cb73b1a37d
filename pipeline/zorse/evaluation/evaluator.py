"""How good translations are: distances of translated test images to real ones, and reconstruction errors.

kid_NETWORK, fid_NETWORK: between features of a network trained on ImageNet (features.py); lower is better.
sliced_wasserstein: between patches. cycle_l1, cycle_psnr: between images and what comes back when they are translated
there and back, rounded to whole pixel values each time: L1 as a share of the full range, PSNR in dB.
structure_distance, mae, psnr, ssim: between images and their translations, or these and their partners (content.py).
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zorse.data.dataset import Shards, numbered_images
from zorse.data.loader import Split
from zorse.data.order import RankSlice
from zorse.data.pixels import full_range, to_network, to_pixels, to_rgb
from zorse.directions import Direction
from zorse.evaluation.content import mean_partner_errors, partner_errors, structure_distance
from zorse.evaluation.features import KID_SEED, KID_SUBSETS, FeatureNetwork, fid, kid, kid_subset
from zorse.evaluation.kept_features import load_features, save_features
from zorse.evaluation.sliced_wasserstein import AT_MOST, descriptors, sliced_wasserstein
from zorse_prep.format import Arrays, Mode, seen_alike

AT_ONCE = 8  # images; the same on any number of ranks, and so is the rounding
Translate = Callable[[str, Tensor], Tensor]


def translation(generators: nn.ModuleDict, accelerator: Accelerator, modes: dict[str, Mode]) -> Translate:
    """A function (direction, pixels [n, ...]) -> pixels by generators on the accelerator's device, in eval mode."""
    weight = next(generators.parameters())

    def translate(direction: Direction, pixels: Tensor) -> Tensor:
        network, training = generators[direction], generators[direction].training
        network.eval()  # of a batch norm: by its running statistics
        with torch.no_grad(), accelerator.autocast():
            fakes = [network(to_network(part, weight.device, weight.dtype)) for part in pixels.split(AT_ONCE)]
        network.train(training)
        return to_pixels(torch.cat(fakes), modes[Direction(direction).target])

    return translate


def too_few(shards: Shards) -> str | None:
    """Why no evaluation is possible; None if it is."""
    if not (shards.test_a and shards.test_b):
        return f"{shards.root} lacks test images of one domain or both"
    counts = [len(split) for split in (shards.test_a, shards.test_b, shards.train_a, shards.train_b)]
    return None if min(counts) > 1 else f"{shards.root} has one image alone in a split"


class Evaluation:
    """Distances of translations to real images, with the work spread over the ranks.

    size: height and width that images are translated and compared at. gather: concatenates a tensor of one shape over
    the ranks, in their order. network: None for the distance of patches alone. real: the split that translations are
    compared with, "test" or "train". most: images of a split.
    """

    def __init__(
        self,
        shards: Shards,
        size: tuple[int, int],
        rank_slice: RankSlice,
        gather: Callable[[Tensor], Tensor],
        *,
        network: FeatureNetwork | None,
        real: str = "test",
        most: int | None = None,
    ):
        self.shards, self.size, self.rank_slice, self.gather = shards, size, rank_slice, gather
        self.network, self.real = network, real
        self.tests, trains = {"a": shards.test_a, "b": shards.test_b}, {"a": shards.train_a, "b": shards.train_b}
        self.targets, others = (self.tests, trains) if real == "test" else (trains, self.tests)
        every = [*self.tests.values(), *trains.values()]
        self.counts = {split.name: min(len(split), most or len(split)) for split in every}
        if real == "test":  # of the others, as many are enough
            for domain, split in trains.items():
                self.counts[split.name] = min(self.counts[split.name], self.counts[self.tests[domain].name])
        self.partners = {Direction.A_TO_B: dict(shards.partners), Direction.B_TO_A: {b: a for a, b in shards.partners}}
        for direction, partners in self.partners.items():
            count = self.counts[self.tests[direction.source].name]
            self.partners[direction] = {sample: partners[sample] for sample in sorted(partners) if sample < count}
        self.described = {split.name: self._describe(split) for split in every}
        self.references = {"untranslated": {}, "real": {}}
        for direction in Direction:
            errors = self._untranslated_partners(direction)  # which takes all ranks
            if rank_slice.rank == 0:
                untranslated, real = self.tests[direction.source].name, others[direction.target].name
                distances = self._distances(self.described[untranslated], direction)
                self.references["untranslated"][direction] = distances | self._content(errors, direction)
                # As near as two sets of real images are.
                self.references["real"][direction] = self._distances(self.described[real], direction)

    def __call__(self, translate: Translate) -> dict | None:
        """{"protocol", "a_to_b": {metric: value}, "b_to_a", "untranslated", "real"} on rank 0, None on the others.

        translate(direction, pixels [n, C, S, S]) -> pixels of the other domain.
        """
        values = {}
        for direction in Direction:
            made = self._describe_translations(direction, translate)
            if self.rank_slice.rank == 0:
                values[direction] = self._distances(made, direction) | cycle_errors(made["errors"])
                values[direction] |= self._content(made, direction)
        return {"protocol": self.protocol(), **values, **self.references} if values else None

    def protocol(self) -> dict:
        """How the numbers were computed, without which they cannot be compared."""
        counts = {
            direction: (
                self.counts[self.tests[direction.source].name],
                self.counts[self.targets[direction.target].name],
            )
            for direction in Direction
        }
        resize = f"whole images, bicubic with antialiasing, to {self.size[1]} x {self.size[0]}"
        of_network = {"features": None}
        if self.network:
            resize += f"; for the features, {self.network.resize}"
            of_network = {
                "features": self.network.name,
                "features_sha256": self.network.sha256,
                "kid_subsets": KID_SUBSETS,
                "kid_subset_size": {direction: kid_subset(*counts[direction]) for direction in Direction},
                "kid_seed": KID_SEED,
            }
        if any(self.partners.values()):
            of_network["partners"] = {direction: len(self.partners[direction]) for direction in Direction}
        return {
            "images": {direction: counts[direction][0] for direction in Direction},
            "real_images": {direction: counts[direction][1] for direction in Direction},
            "real_split": self.real,
            "image_size": self.size[0] if self.size[0] == self.size[1] else list(self.size),
            "resize": resize,
            **of_network,
            "data": self.shards.fingerprint,
        }

    def class_hit_rate(self, number: int, direction: Direction, translate: Translate) -> dict[str, float]:
        """The fraction of images classified as an ImageNet class: test images, their translations, and real targets."""
        sets = {
            "untranslated": (self.tests[direction.source], lambda pixels: pixels, direction.source),
            "translated": (self.tests[direction.source], partial(translate, direction), direction.target),
            "real": (self.tests[direction.target], lambda pixels: pixels, direction.target),
        }
        shares = {}
        for name, (split, change, domain) in sets.items():

            def classes(
                pixels: Tensor, *_: Sequence[int], change=change, mode: Mode = self.shards.modes[domain]
            ) -> dict:
                return {"class": self.network.classify(to_rgb(change(pixels), mode)).cpu()}

            found = self._over(split, range(self.counts[split.name]), classes)["class"]
            shares[name] = (found == number).double().mean().item()
        return shares

    def _distances(self, described: dict[str, Tensor], direction: Direction) -> dict[str, float]:
        """Distances between described images and real ones of the target domain."""
        real, values = self.described[self.targets[direction.target].name], {}
        if self.network:
            name = self.network.name
            values[f"kid_{name}"], values[f"kid_{name}_std"] = kid(real["features"], described["features"])
            values[f"fid_{name}"] = fid(real["features"], described["features"])
        return values | {"sliced_wasserstein": sliced_wasserstein(real["patches"], described["patches"])}

    def _content(self, described: dict[str, Tensor], direction: Direction) -> dict[str, float]:
        """Means of "structure" and "partners", as far as there are any."""
        values = {"structure_distance": described["structure"].mean().item()} if "structure" in described else {}
        if "partners" in described:
            values |= mean_partner_errors(described["partners"])
        return values

    def _untranslated_partners(self, direction: Direction) -> dict[str, Tensor]:
        """The errors "partners" of test images as they are, where both domains are of one mode."""
        samples, modes = list(self.partners[direction]), self.shards.modes
        if not samples or not seen_alike(modes["a"], modes["b"]):
            return {}

        def compare(pixels: Tensor, numbers: Sequence[int], read: Sequence[int]) -> dict[str, Tensor]:
            return self._partners(direction, pixels, read)

        return self._over(self.tests[direction.source], samples, compare)

    def _partners(self, direction: Direction, pixels: Tensor, read: Sequence[int]) -> dict[str, Tensor]:
        """Errors "partners" [n, 3] of pixels that stand for these test images; NaN for one without a partner.

        Neither has it one whose partner cannot be read: another image would be no partner.
        """
        partners, target = self.partners[direction], self.tests[direction.target]
        rows, found = [], []
        for row, sample in enumerate(read):
            if sample in partners:
                image, numbers = numbered_images(target, [partners[sample]], self.size)
                if numbers == [partners[sample]]:
                    rows.append(row)
                    found.append(image)
        errors = torch.full((len(read), 3), math.nan, dtype=torch.float64)
        if found:
            errors[rows] = partner_errors(pixels[rows], torch.cat(found), target.mode)
        return {"partners": errors}

    def _describe(self, split: Split) -> dict[str, Tensor]:
        """Describe a split's images: "patches" of the first ones, "features" [n, D], which are cached by the shards."""
        count = self.counts[split.name]
        found = self._over(split, range(min(count, AT_MOST)), partial(self._patches, mode=split.mode))
        if self.network:
            file = self._kept(split)
            features = load_features(file, count) if self.rank_slice.rank == 0 else None
            if not self.gather(torch.tensor([features is not None], dtype=torch.int32))[0]:
                features = self._over(split, range(count), partial(self._features, mode=split.mode))["features"]
                if self.rank_slice.rank == 0:
                    save_features(file, features)
            found["features"] = features  # which only rank 0 needs
        return found

    def _describe_translations(self, direction: Direction, translate: Translate) -> dict[str, Tensor]:
        """Describe a test split's translations; "errors" [n, 2] are L1 and squared errors of the reconstructions.

        Where there are any, "structure" [n] are distances to the images, "partners" [n, 3] errors to their partners.
        """
        split = self.tests[direction.source]
        count = self.counts[split.name]

        def describe(pixels: Tensor, numbers: Sequence[int], read: Sequence[int]) -> dict[str, Tensor]:
            fake = translate(direction, pixels)
            error = (translate(direction.reverse, fake).double() - pixels) / full_range(pixels)
            errors = torch.stack([error.abs().mean((1, 2, 3)), error.square().mean((1, 2, 3))], dim=1)
            mode = self.shards.modes[direction.target]
            made = {"errors": errors} | (self._patches(fake, numbers, mode=mode) if numbers[0] < AT_MOST else {})
            if self.network:
                made |= self._features(fake, mode=mode)
            if self.network and self.network.cells:
                seen = to_rgb(pixels, split.mode), to_rgb(fake, mode)
                made["structure"] = structure_distance(*(self.network.cells(each).cpu() for each in seen))
            return made | (self._partners(direction, fake, read) if self.partners[direction] else {})

        first = self._over(split, range(min(count, AT_MOST)), describe)
        rest = self._over(split, range(AT_MOST, count), describe) if count > AT_MOST else {}
        return {name: torch.cat([made, rest[name]]) if name in rest else made for name, made in first.items()}

    def _patches(self, pixels: Tensor, numbers: Sequence[int], *_: Sequence[int], mode: Mode) -> dict[str, Tensor]:
        return {"patches": descriptors(to_rgb(pixels, mode), numbers)}

    def _features(self, pixels: Tensor, *_: Sequence[int], mode: Mode) -> dict[str, Tensor]:
        return {"features": self.network.describe(to_rgb(pixels, mode)).cpu()}

    def _over(self, split: Split, numbers: Sequence[int], function: Callable[..., dict]) -> dict[str, Tensor]:
        """Apply `function` to a split's images by their numbers, AT_ONCE at a time; results in their order.

        function(pixels [n, C, *size], numbers, numbers of the images that were read in their place) -> {name: [n, ...]}
        """
        ranks, chunks = self.rank_slice.world_size, [numbers[i : i + AT_ONCE] for i in range(0, len(numbers), AT_ONCE)]
        mine = chunks[self.rank_slice.rank :: ranks]
        each = -(-len(chunks) // ranks)
        mine += chunks[-1:] * (each - len(mine))  # all ranks make equally many; what is too much is cut off below
        made = []
        for chunk in mine:
            pixels, read = numbered_images(split, chunk, self.size)
            made.append(function(pixels, chunk, read))
        together = {}
        for name in made[0]:
            full = torch.stack([fill(part[name]) for part in made])
            everyone = self.gather(full).unflatten(0, (ranks, each))
            together[name] = everyone.transpose(0, 1).flatten(0, 2)[: len(numbers)]
        return together

    def _kept(self, split: Split) -> Path | None:
        """Where the features of a split's images are kept; None for shards at a URL."""
        if "://" in self.shards.root:
            return None
        key = [self.shards.fingerprint, split.name, self.counts[split.name], self.size]
        key += [self.network.name, self.network.sha256, self.network.resize]
        key += [asdict(split.mode)] if isinstance(split.mode, Arrays) else []  # the same bytes may be seen otherwise
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        return Path(self.shards.root, "features", f"{split.name}-{self.network.name}-{name}.safetensors")


def fill(rows: Tensor) -> Tensor:
    """Pad [n, ...] to [AT_ONCE, ...] by repeating the last row."""
    return torch.cat([rows, rows[-1:].expand(AT_ONCE - len(rows), *rows.shape[1:])])


def cycle_errors(errors: Tensor) -> dict[str, float]:
    """Mean L1 and PSNR of errors [n, 2]: L1 and squared, as fractions of the full range.

    An error that is too small for 8 bits counts as their rounding error.
    """
    l1, squared = errors.mean(0).tolist()
    return {"cycle_l1": l1, "cycle_psnr": -10 * math.log10(max(squared, 1 / 255**2 / 12))}
