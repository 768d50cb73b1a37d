"""pipeline/train.py in fp16 on a CPU, which accelerate has for GPUs alone: python half_on_cpu.py SCALE [options]."""

import sys

import accelerate
import torch

SCALE = float(sys.argv.pop(1))  # of losses, at the beginning


class HalfOnCpu(accelerate.Accelerator):
    def __init__(self, **options):
        super().__init__(**options | {"mixed_precision": "fp16"})
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=3)


accelerate.Accelerator = HalfOnCpu  # before the training takes it

if __name__ == "__main__":
    from zorse.commands.train import main

    main()
