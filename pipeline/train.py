"""Train a CycleGAN: accelerate launch pipeline/train.py [--data DIR] [options]. Run it again to resume."""

try:
    from zorse.commands.train import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
