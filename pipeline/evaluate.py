"""Evaluate a CycleGAN: [accelerate launch] pipeline/evaluate.py RUN_OR_CHECKPOINT [--data SHARDS] [options]."""

try:
    from zorse.commands.evaluate import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
