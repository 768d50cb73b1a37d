"""Evaluate a CycleGAN: [accelerate launch] pipeline/evaluate.py RUN_OR_CHECKPOINT [--data SHARDS] [options]."""

from zorse.commands.evaluate import main

if __name__ == "__main__":
    main()
