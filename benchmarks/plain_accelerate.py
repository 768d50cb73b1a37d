"""CycleGAN as one writes it from accelerate's documentation, to set beside pipeline/train.py.

accelerate launch benchmarks/plain_accelerate.py --data DIR --out DIR

Networks, losses and the decoding of shards are pipeline's, so that both loops train the same thing. Saving and resuming
are accelerate's: save_state every so many steps into OUT/checkpoints/step_N, load_state of the one with the highest
number at the start, skip_first_batches. It does all that accelerate's guides advise for reproducible runs, and nothing
beyond: a seed per rank, a seedable sampler, a batch that stays the same on any number of ranks.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from zorse.config.schema import Images, Losses, Networks
from zorse.cyclegan.step import CycleGANStep
from zorse.data.dataset import open_shards
from zorse.data.pixels import decode, to_network
from zorse.data.samples import Split


@dataclass(frozen=True)
class Options:
    data: Path
    out: Path
    images: Images = field(default_factory=Images)
    networks: Networks = field(default_factory=lambda: Networks(generator_blocks=9))
    losses: Losses = field(default_factory=Losses)
    steps: int = 100_000
    batch: int = 1
    """pairs per step over all processes"""
    lr: float = 2e-4
    """at first; falls linearly to 0 over the second half of the steps"""
    seed: int = 0
    checkpoint_every: int = 1000
    """steps"""
    workers: int = 2


class Domain(Dataset):
    """The training images of one domain, cropped and mirrored by torch's random state."""

    def __init__(self, split: Split, images: Images):
        self.split, self.load_size = split, images.load
        mirror = [v2.RandomHorizontalFlip()] if images.flip else []
        self.transform = v2.Compose([v2.RandomCrop(images.crop), *mirror])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, sample: int) -> Tensor:
        return self.transform(decode(self.split.read(sample), self.load_size))


class ImagePool:
    """The generated images of one domain that this rank keeps for its discriminator, chosen by Python's random state.

    state_dict and load_state_dict are what register_for_checkpointing asks for.
    """

    def __init__(self, size: int, device: torch.device):
        self.size, self.device, self.images = size, device, []

    def exchange(self, fakes: Tensor, plan: None) -> Tensor:
        return torch.stack([self._exchange(fake) for fake in fakes])

    def _exchange(self, fake: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(fake.clone())
        elif self.size and random.random() < 0.5:
            place = random.randrange(self.size)
            old, self.images[place] = self.images[place], fake.clone()
            return old
        return fake

    def state_dict(self) -> dict:
        return {"images": self.images}

    def load_state_dict(self, state: dict) -> None:
        self.images = [image.to(self.device) for image in state["images"]]


def endless(accelerator: Accelerator, loader: DataLoader, step: int) -> Iterator[Tensor]:
    """The batches of step `step`, `step` + 1, ... of a run."""
    epoch, skipped = divmod(step, len(loader))
    while True:
        loader.set_epoch(epoch)
        yield from accelerator.skip_first_batches(loader, skipped) if skipped else loader
        epoch, skipped = epoch + 1, 0


def number(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def main() -> None:
    options = tyro.cli(tyro.conf.OmitArgPrefixes[Options])
    accelerator = Accelerator(
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True, data_seed=options.seed)
    )
    set_seed(options.seed, device_specific=True)
    checkpoints = options.out / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)

    # Data, networks, optimizer and schedule, all prepared by accelerate.
    shards = open_shards(options.data)
    loaders = [
        DataLoader(
            Domain(split, options.images), options.batch, shuffle=True, drop_last=True, num_workers=options.workers
        )
        for split in (shards.train_a, shards.train_b)
    ]
    model = CycleGANStep(options.networks, options.losses, options.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, betas=(0.5, 0.999))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 * (1 - step / options.steps)))
    model, optimizer, scheduler, *loaders = accelerator.prepare(model, optimizer, scheduler, *loaders)
    pools = {domain: ImagePool(options.losses.image_pool_size, accelerator.device) for domain in ("a", "b")}
    accelerator.register_for_checkpointing(*pools.values())

    # Resume as accelerate's examples do.
    step = 0
    if saved := sorted(checkpoints.glob("step_*"), key=number):
        accelerator.print(f"resuming {saved[-1]}")
        accelerator.load_state(saved[-1])
        step = number(saved[-1])

    # One loop over steps, which logs and saves.
    batches = zip(*(endless(accelerator, loader, step) for loader in loaders), strict=True)
    log = (options.out / "losses.jsonl").open("a", buffering=1) if accelerator.is_main_process else None
    while step < options.steps:
        a, b = (to_network(images, accelerator.device, torch.float32) for images in next(batches))
        loss, named = model(a, b, pools, {"a": None, "b": None})
        accelerator.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        step += 1
        named = accelerator.reduce(named, "mean")
        if log:
            log.write(json.dumps({"step": step, **{name: value.item() for name, value in named.items()}}) + "\n")
        if step % options.checkpoint_every == 0:
            accelerator.save_state(checkpoints / f"step_{step}")

    # A hash of the final weights, to compare runs by.
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        digest = hashlib.sha256()
        for parameter in accelerator.unwrap_model(model).parameters():
            digest.update(parameter.detach().cpu().numpy().tobytes())
        (options.out / "final.json").write_text(json.dumps({"step": step, "sha256": digest.hexdigest()}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
