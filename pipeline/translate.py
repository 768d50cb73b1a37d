"""Translate images with a trained CycleGAN: python pipeline/translate.py RUN_OR_CHECKPOINT IN OUT --direction a2b."""

try:
    from zorse.commands.translate import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
