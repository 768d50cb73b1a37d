"""A page to try a trained CycleGAN on: python pipeline/app.py RUN_OR_CHECKPOINT, then drop an image on it."""

try:
    from zorse.commands.app import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
