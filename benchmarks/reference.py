"""The reference in benchmarks/step.py: junyanz/pytorch-CycleGAN-and-pix2pix, in a folder of yours.

It is imported, never changed, and runs as shipped: its own set_input and optimize_parameters, its pools, the defaults
of its options. It is given float images in [-1, 1] in ordinary memory, as its loader makes them; what scaling them
costs is not counted. For bf16 an autocast is set around the two calls. As it waits for the GPU whenever it copies
images there, its time to queue contains that wait.
"""

import argparse
import sys
from pathlib import Path

import torch
from contenders import BATCHES, SEED, Contender
from torch import nn

from zorse.config.schema import Losses, Networks
from zorse.cyclegan.step import CycleGANStep
from zorse.data.pixels import to_network

LAMBDA, IDENTITY, POOL = 10.0, 0.5, 50

# Its names and ours.
NETWORKS = {
    "G_A": "generators.a_to_b",
    "G_B": "generators.b_to_a",
    "D_A": "discriminators.of_b",
    "D_B": "discriminators.of_a",
}
LOSSES = {
    "G_A": "adversarial_a_to_b",
    "G_B": "adversarial_b_to_a",
    "cycle_A": "cycle_a",
    "cycle_B": "cycle_b",
    "idt_A": "identity_b",
    "idt_B": "identity_a",
    "D_A": "discriminator_b",
    "D_B": "discriminator_a",
}


class Reference(Contender):
    def __init__(self, path: Path, networks: Networks, threads: int | None):
        super().__init__(networks, threads)
        sys.dont_write_bytecode = True  # the folder stays as it is
        sys.path.insert(0, str(path))
        from models.cycle_gan_model import CycleGANModel

        self.make = CycleGANModel

    def options(self) -> argparse.Namespace:
        """Its defaults, as its own parser would give them for training."""
        return argparse.Namespace(
            isTrain=True, gpu_ids=[0] if self.device.type == "cuda" else [], checkpoints_dir="", name="",
            preprocess="resize_and_crop", direction="AtoB", input_nc=3, output_nc=3,
            ngf=self.networks.generator_channels, netG=f"resnet_{self.networks.generator_blocks}blocks",
            ndf=self.networks.discriminator_channels, netD="basic", n_layers_D=3, norm="instance", no_dropout=True,
            init_type="normal", init_gain=0.02, gan_mode="lsgan", pool_size=POOL, lambda_A=LAMBDA,
            lambda_B=LAMBDA, lambda_identity=IDENTITY, lr=2e-4, beta1=0.5,
        )  # fmt: skip

    def build(self, images: torch.Tensor, full: bool) -> None:
        self.model = self.make(self.options())
        for part in vars(self.model).values():
            if isinstance(part, nn.Module):
                part.to(self.device, self.dtype)
        self.optimizers = self.model.optimizers
        ours, self.named = CycleGANStep(self.networks, Losses(), SEED), {}
        for theirs, name in NETWORKS.items():
            network = getattr(self.model, f"net{theirs}")
            network = network.module if isinstance(network, nn.DataParallel) else network
            weights = ours.get_submodule(name).state_dict()
            missing, unknown = network.load_state_dict(weights, strict=False)
            if unknown or not all(key.endswith(".bias") for key in missing):  # zero, each before an InstanceNorm
                raise ValueError(f"net{theirs} has other parameters than ours: {[*missing, *unknown]}")
            self.named |= {f"{name}.{key}": p for key, p in network.named_parameters() if key in weights}
        if full:
            shape, kind = (POOL, 3, self.size, self.size), torch.bfloat16 if self.bf16 else self.dtype
            for pool in (self.model.fake_A_pool, self.model.fake_B_pool):
                pool.query((torch.rand(shape) * 2 - 1).to(self.device, kind))
        floats = to_network(images, torch.device("cpu"), self.dtype)
        self.inputs = [{"A": a, "B": b, "A_paths": [], "B_paths": []} for a, b in floats]

    def step(self) -> None:
        with self.autocast():
            self.model.set_input(self.inputs[self.taken % BATCHES])
            self.model.optimize_parameters()
        self.taken += 1

    def losses(self) -> dict[str, float]:
        weights = {"cycle": LAMBDA, "idt": LAMBDA * IDENTITY}
        return {
            name: float(getattr(self.model, f"loss_{theirs}")) / weights.get(theirs.split("_")[0], 1.0)
            for theirs, name in LOSSES.items()
        }
