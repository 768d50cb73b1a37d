"""Train a CycleGAN: accelerate launch pipeline/train.py [--data DIR] [options]. Run it again to resume."""

from zorse.commands.train import main

if __name__ == "__main__":
    main()
