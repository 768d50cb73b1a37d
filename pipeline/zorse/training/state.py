"""Everything that a checkpoint keeps of a run: networks, optimizer, image pools, EMA, pending losses, position."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from zorse.checkpoints import format as checkpoint
from zorse.config.schema import Config
from zorse.cyclegan.ema import GeneratorEMA
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.step import CycleGANStep
from zorse.data.block_cache import BlockCache
from zorse.data.dataset import Shards, open_shards
from zorse.data.order import RankSlice
from zorse.errors import UserError
from zorse.keyed_random import DOMAIN_A, DOMAIN_B
from zorse.processes import from_rank0
from zorse.runs.metrics import LOWEST_SCALE, LossWindow
from zorse.training.devices import configure_device
from zorse.training.init_from import load_initial_weights
from zorse.training.schedule import total_pairs
from zorse_prep.format import Mode, channels_of, in_range


@dataclass
class TrainState:
    """The state of a run between two steps.

    optimizer: one Adam for all networks. pools: of the fakes of "a" and "b", for this rank's slots. ema: None for none.
    losses: of the steps since the last status. lanes: of the data's order, which a run keeps from its first start on.
    scaler: of fp16's losses, None in other precisions. total_pairs: where the run ends. resumed: state.json of the
    checkpoint that it was restored from.
    """

    config: Config
    dataset: Shards
    rank_slice: RankSlice
    model: CycleGANStep
    optimizer: torch.optim.Adam
    pools: dict[str, ImagePool]
    ema: GeneratorEMA | None
    losses: LossWindow
    lanes: int
    scaler: torch.amp.GradScaler | None
    total_pairs: int
    pairs_seen: int = 0
    resumed: dict | None = None

    @classmethod
    def build(cls, config: Config, dataset: Shards, rank_slice: RankSlice, accelerator: Accelerator) -> "TrainState":
        """A run at pair 0, on the device. Raises UserError for options that data or machine do not fit."""
        device, optimization = accelerator.device, config.optimization
        model = build_model(config, dataset.modes, device, dataset.means)
        configure_device(model, device, config.compute)
        return cls(
            config=config,
            dataset=dataset,
            rank_slice=rank_slice,
            model=model,
            optimizer=build_adam(config, model),
            pools=build_image_pools(config, dataset.modes, rank_slice, device),
            ema=GeneratorEMA(model.generators, optimization.ema_pairs) if optimization.ema_pairs else None,
            losses=LossWindow(optimization.batch, rank_slice.accum_steps),
            lanes=optimization.batch,
            scaler=accelerator.scaler,
            total_pairs=total_pairs(optimization, dataset.epoch),
        )

    @property
    def generators(self) -> torch.nn.ModuleDict:
        """The generators to translate with: the EMA's, if there is one."""
        return self.ema.generators if self.ema else self.model.generators

    @property
    def finished(self) -> bool:
        return self.pairs_seen >= self.total_pairs

    def restore(self, path: Path) -> list[str]:
        """Load a checkpoint, in place, and return notes of what has changed since it was written.

        Raises UserError where the configuration or the data has changed in a way that is not allowed.
        """
        stored, changed, harmless = checkpoint.read_state(path, self.config, checkpoint.data_identity(self.dataset))
        # Weights, optimizer and image pools, then the position in the data and the loss scale.
        checkpoint.restore(path, self)
        self.resumed = stored
        self.pairs_seen, self.lanes = stored["pairs_seen"], stored["lanes"]
        if self.scaler and (scale := stored.get("loss_scale")):  # a run that was not in fp16 has none
            self.scaler.load_state_dict(scale | {"scale": max(scale["scale"], LOWEST_SCALE)})
        # Losses of before and after a change of what is learned are not averaged.
        if changed:
            self.losses.start = self.pairs_seen
        else:
            self.losses.load(stored["window"])

        # What the user should know of changes since.
        notes, layout = [], self._layout()
        if stored["how"] != layout:
            differ = [
                f"{name} {stored['how'][name]} -> {layout[name]}"
                for name in layout
                if stored["how"][name] != layout[name]
            ]
            notes.append(f"parallel layout changed (same samples, other rounding): {', '.join(differ)}")
        if harmless:
            notes.append(f"changed; affects rounding at most, which training amplifies: {', '.join(harmless)}")
        if changed:
            notes.append(f"changed from pair {self.pairs_seen} on: {', '.join(changed)}")
        if self.config.checkpointing.init_from:
            notes.append(
                f"--init-from {self.config.checkpointing.init_from} is not used: this run resumes its own checkpoint"
            )
        return notes

    def init_from(self, source: Path) -> str:
        """Load the weights that a new run starts from. Returns a note of which networks they are."""
        note = load_initial_weights(source, self.model, self.config.networks, self.dataset.modes)
        if self.ema:
            self.ema.generators.load_state_dict(self.model.generators.state_dict())
        return f"the weights are {note}"

    def record(self) -> dict:
        """What a checkpoint's state.json holds: all that are not tensors."""
        return {
            "pairs_seen": self.pairs_seen,
            "lanes": self.lanes,
            "constants": checkpoint.data_identity(self.dataset),
            "how": self._layout(),
            "window": self.losses.state(),
            "config": dataclasses.asdict(self.config),
            "loss_scale": self.scaler and self.scaler.state_dict(),
        }

    def _layout(self) -> dict[str, int]:
        return {
            "processes": self.rank_slice.world_size,
            "accumulate": self.rank_slice.accum_steps,
            "workers": self.config.data.workers,
        }


def open_dataset(config: Config, accelerator: Accelerator) -> Shards:
    """The shards as rank 0 finds them: of thousands of ranks, it alone reads the manifest and looks for every file."""
    data = config.data

    def open_and_check() -> Shards:
        cache = BlockCache(data.cache_dir, int(data.cache_gb * 1e9))
        found = open_shards(data.path, verify=data.verify_samples, cache=cache, timeout=data.read_timeout)
        found.check()
        return found

    return from_rank0(open_and_check, accelerator)


def build_model(
    config: Config, modes: dict[str, Mode], device: torch.device, means: dict[str, list[float]] | None = None
) -> CycleGANStep:
    """The networks on the device. modes, means: of the images of both domains; see Shards. Raises UserError where they
    do not fit."""
    a, b = channels_of(modes["a"]), channels_of(modes["b"])
    if a != b and config.losses.identity_weight:
        raise UserError(
            f"{config.data.path}: images of a are {in_range(modes['a'])} and of b {in_range(modes['b'])}, "
            "so there can be no identity loss; add --identity-weight 0"
        )
    model = CycleGANStep(
        config.networks, config.losses, config.optimization.seed, (a, b), means=means,
        recompute=config.compute.activation_checkpointing, fused=config.compute.fused_norm,
    )  # fmt: skip
    return model.to(device, getattr(torch, config.compute.dtype))


def build_adam(config: Config, model: CycleGANStep) -> torch.optim.Adam:
    """One for all networks, with the generators and the discriminators as its two groups."""
    groups = [{"params": list(part.parameters())} for part in (model.generators, model.discriminators)]
    if config.compute.cuda_graph:  # a captured step reads its learning rates from the device
        groups = [{**group, "lr": torch.zeros((), device=group["params"][0].device)} for group in groups]
    betas = (config.optimization.beta1, config.optimization.beta2)
    return torch.optim.Adam(groups, betas=betas, fused=True, capturable=config.compute.cuda_graph)


def build_image_pools(
    config: Config, modes: dict[str, Mode], rank_slice: RankSlice, device: torch.device
) -> dict[str, ImagePool]:
    """The image pools of both domains' fakes, for this rank's slots of the batch."""
    return {
        name: ImagePool(
            rank_slice.slots, config.losses.image_pool_size, config.images.crop, domain=number,
            channels=channels_of(modes[name]), seed=config.optimization.seed, device=device,
            dtype=getattr(torch, config.compute.dtype),
        )
        for name, number in (("a", DOMAIN_A), ("b", DOMAIN_B))
    }  # fmt: skip
