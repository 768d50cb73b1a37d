"""From shards to batches: the manifest, reading a sample by its number, decoding, cropping, and the stream of a rank.

Batches are uint8 [n, 3, H, W] on the host; the trainer moves them to its device and scales them there.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from pipeline.config import Images, OneRankError, TransientError, UserError
from pipeline.interrupt import ignore_signals
from pipeline.order import AUGMENT, DOMAIN_A, DOMAIN_B, DomainOrder, Share, key

TAR_BLOCK = 512  # bytes; a tar member is a header of one block, then the data filled up to whole blocks


class Split:
    """The images of one split, e.g. trainA, read by number from the tars with one pread each.

    counts: samples per shard. A Split is cheap to pickle: files are opened when they are read, per process.
    """

    def __init__(self, name: str, shards: list[tuple[Path, int]]):
        self.name, self.paths, self.counts = name, [path for path, _ in shards], [count for _, count in shards]
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, sample: int) -> bytes:
        """The encoded image of a sample. Raises OneRankError, naming the shard, where tar and index disagree."""
        shard = int(np.searchsorted(self.starts, sample, side="right")) - 1
        file, offsets = _open_shard(self.paths[shard])
        at = sample - self.starts[shard]
        start, end = int(offsets[at]), int(offsets[at + 1])
        try:
            member = os.pread(file.fileno(), end - start, start)
            if len(member) != end - start or member[257:262] != b"ustar":
                raise ValueError
            size = int(member[124:135], 8)
            if TAR_BLOCK + size > len(member):
                raise ValueError
        except (ValueError, OverflowError, MemoryError, OSError):  # also what an index full of nonsense asks for
            raise OneRankError(
                f"{self.paths[shard]}: sample {at} is not where its index says; make the shards again"
            ) from None
        return member[TAR_BLOCK : TAR_BLOCK + size]


@lru_cache(256)
def _open_shard(path: Path) -> tuple:
    """An open tar and its offsets, int64 [samples + 1]; the least recently used of a process are closed."""
    return path.open("rb", buffering=0), np.fromfile(path.with_name(path.name + ".idx"), dtype="<u8").astype(np.int64)


@dataclass(frozen=True)
class Shards:
    """A data set that data_prep/shard.py made. test_a and test_b are None where it has no test images."""

    root: Path
    fingerprint: str
    train_a: Split
    train_b: Split
    test_a: Split | None
    test_b: Split | None

    @property
    def epoch(self) -> int:
        """pairs per epoch"""
        return max(len(self.train_a), len(self.train_b))


def open_shards(root: Path) -> Shards:
    """Read the manifest and check every file that it names against it, by size. Raises UserError in one line."""
    try:
        manifest = json.loads((root / "manifest.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        if root == Path("shards/horse2zebra"):
            fix = "make it with: python data_prep/shard.py horse2zebra"
        else:
            fix = f"make it with: python data_prep/shard.py --source DIR --out {root}"
        state = "not finished" if (root / "plan.json").exists() else "not found"
        raise UserError(f"{root}/manifest.json: {state}; {fix}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{root}/manifest.json: cannot be read ({error}); make the shards again") from None
    try:
        if (manifest["format"], manifest["version"]) != ("zorse-shards", 2):
            raise UserError(
                f"{root}/manifest.json: format {manifest['format']} {manifest['version']} is not known here"
            )
        splits = {name: _open_split(root, name, split) for name, split in manifest["splits"].items()}
        for name in ("trainA", "trainB"):
            if not splits.get(name):
                raise UserError(f"{root}: {name} has no images; both domains need at least one")
        return Shards(
            root,
            manifest["fingerprint"],
            splits["trainA"],
            splits["trainB"],
            splits.get("testA") or None,
            splits.get("testB") or None,
        )
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{root}/manifest.json: is not a manifest of shards; make the shards again") from None


def _open_split(root: Path, name: str, split: dict) -> Split:
    shards = []
    for shard in split["shards"]:
        path, count = root / shard["name"], shard["samples"]
        index = path.with_name(path.name + ".idx")
        for file, size in ((path, shard["bytes"]), (index, 8 * (count + 1))):
            try:
                found = file.stat().st_size
            except OSError:
                raise UserError(f"{file}: is missing; copy it again, or run data_prep/shard.py again") from None
            if found != size:
                raise UserError(
                    f"{file}: has {found} bytes, the manifest says {size}; copy it again, or make the shards again"
                )
        shards.append((path, count))
    return Split(name, shards)


def decode(data: bytes, size: int) -> Tensor:
    """An encoded image as uint8 [3, size, size], resized bicubically with antialiasing; grey becomes RGB."""
    with Image.open(io.BytesIO(data)) as opened:
        image = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    if image.shape[1:] == (size, size):
        return image
    return resize(image, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)


def augment(image: Tensor, crop_size: int, flip: bool, bits: int) -> Tensor:
    """A crop of uint8 [3, H, W] and a mirroring, chosen by 64 random bits. uint8 [3, crop_size, crop_size]."""
    top = (bits & 0xFFFFFF) % (image.shape[1] - crop_size + 1)
    left = (bits >> 24 & 0xFFFFFF) % (image.shape[2] - crop_size + 1)
    image = image[:, top : top + crop_size, left : left + crop_size]
    return image.flip(2) if flip and bits >> 48 & 1 else image


class PairPositions(IterableDataset):
    """First stage of the stream: the positions of micro-steps 0, 1, 2, ... without end, dealt to the loader's workers.

    Worker i of n yields micro-steps i, i + n, ...; the loader takes from its workers in turn, which restores the order.
    """

    def __init__(self, share: Share, start: int):
        self.share, self.start = share, start

    def __iter__(self) -> Iterator[list[int]]:
        worker = get_worker_info()
        micro_step, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            yield self.share.positions(self.start, micro_step)
            micro_step += stride


class ReadPairs:
    """Second stage: positions to {"positions": [n], "a": uint8 [n, 3, H, W], "b": the same}."""

    def __init__(self, shards: Shards, images: Images, seed: int, lanes: int):
        self.images, self.seed, self.lanes = images, seed, lanes
        self.splits = (("a", DOMAIN_A, shards.train_a), ("b", DOMAIN_B, shards.train_b))

    def __call__(self, stream: Iterator[list[int]]) -> Iterator[dict]:
        # Made here, in the worker: its caches cannot be sent to a process that is spawned.
        domains = [(*split, DomainOrder(split[2].counts, self.seed, split[1], self.lanes)) for split in self.splits]
        for positions in stream:
            batch = {name: [] for name, *_ in domains}
            for name, number, split, order in domains:
                for position in positions:
                    _, sample = order(position)
                    image = _decode_sample(split, sample, self.images.load_size)
                    bits = key(self.seed, number, AUGMENT, position)
                    batch[name].append(augment(image, self.images.crop_size, self.images.flip, bits))
            yield {"positions": positions, **{name: torch.stack(images) for name, images in batch.items()}}


def _decode_sample(split: Split, sample: int, size: int) -> Tensor:
    try:
        return decode(split.read(sample), size)
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for damaged files
        raise OneRankError(
            f"{split.name} sample {sample}: its image is damaged; copy the shards again, or make them again"
        ) from None


def pair_batches(
    shards: Shards, images: Images, share: Share, *, seed: int, lanes: int, start: int, workers: int, pin: bool
) -> Iterator[dict]:
    """The endless micro-batches of one rank from position `start` on, read ahead by `workers` processes."""
    pipeline = wds.DataPipeline(PairPositions(share, start), ReadPairs(shards, images, seed, lanes))
    ahead = {"prefetch_factor": 4, "persistent_workers": True, "worker_init_fn": ignore_signals} if workers else {}
    try:
        yield from wds.WebLoader(pipeline, batch_size=None, num_workers=workers, pin_memory=pin, **ahead)
    except OneRankError as error:
        # From a worker process the message comes wrapped in its traceback; the last line is ours.
        raise OneRankError(str(error).strip().splitlines()[-1].split("OneRankError: ")[-1]) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TransientError("a data worker was killed, perhaps for its memory; give fewer --workers") from None


def whole_images(split: Split, samples: Iterable[int], size: int) -> Tensor:
    """Images of a split by their numbers, resized but not cropped: uint8 [n, 3, size, size]."""
    return torch.stack([_decode_sample(split, sample, size) for sample in samples])


def to_network(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 [n, 3, H, W] to [-1, 1] on the device; the bytes travel, and are scaled there."""
    return images.to(device, non_blocking=True).to(dtype).div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """[-1, 1] to uint8 on the host, rounded to the nearest."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
