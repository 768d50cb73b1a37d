"""What training needs, made from a configuration: shards, networks, optimizer, image history."""

import sys

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from zorse.config.schema import Config, Run
from zorse.cyclegan.image_pool import ImageHistory
from zorse.cyclegan.step import CycleGANStep
from zorse.data.block_cache import BlockCache
from zorse.data.dataset import Shards, open_shards
from zorse.data.order import Share
from zorse.errors import TransientError, UserError
from zorse.keyed_random import DOMAIN_A, DOMAIN_B
from zorse_prep.format import CHANNELS


def open_together(run: Run, accelerator: Accelerator) -> Shards:
    """The shards as rank 0 finds them: of thousands of ranks, it alone reads the manifest and looks for every file."""
    found = None
    if accelerator.is_main_process:
        cache = BlockCache(run.cache_dir, int(run.cache_gb * 1e9))
        try:
            found = open_shards(run.data, verify=run.verify_samples, cache=cache, timeout=run.read_timeout)
            found.check()
        except UserError as error:
            found = error
    found = broadcast_object_list([found])[0]
    if not isinstance(found, UserError):
        return found
    if accelerator.is_main_process:
        raise found
    sys.exit(1 if isinstance(found, TransientError) else 2)  # rank 0 tells it


def build_model(config: Config, modes: dict[str, str], device: torch.device) -> CycleGANStep:
    """The networks on the device. modes: of the images of both domains. Raises UserError where they do not fit."""
    a, b = CHANNELS[modes["a"]], CHANNELS[modes["b"]]
    if a != b and config.losses.identity_weight:
        raise UserError(
            f"{config.run.data}: images of a are {modes['a']} and of b {modes['b']}, "
            "which a generator cannot leave as they are; add --identity-weight 0"
        )
    model = CycleGANStep(
        config.networks, config.losses, config.optimization.seed, (a, b),
        recompute=config.run.recompute, fused=config.run.fused_norm,
    )  # fmt: skip
    return model.to(device, getattr(torch, config.run.dtype))


def build_adam(config: Config, model: CycleGANStep) -> torch.optim.Adam:
    """One for all networks, with the generators and the discriminators as its two groups."""
    groups = [{"params": list(part.parameters())} for part in (model.generators, model.discriminators)]
    if config.run.cuda_graph:  # a recorded step reads its learning rates from the device
        groups = [{**group, "lr": torch.zeros((), device=group["params"][0].device)} for group in groups]
    betas = (config.optimization.beta1, config.optimization.beta2)
    return torch.optim.Adam(groups, betas=betas, fused=True, capturable=config.run.cuda_graph)


def build_history(config: Config, modes: dict[str, str], share: Share, device: torch.device) -> dict[str, ImageHistory]:
    """Of the fakes of both domains, for the slots of this rank."""
    return {
        name: ImageHistory(
            share.slots, config.losses.history, config.images.crop, domain=number, channels=CHANNELS[modes[name]],
            seed=config.optimization.seed, device=device, dtype=getattr(torch, config.run.dtype),
        )
        for name, number in (("a", DOMAIN_A), ("b", DOMAIN_B))
    }  # fmt: skip
