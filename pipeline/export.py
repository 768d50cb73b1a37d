"""Export a trained generator, to be used without Zorse or without Python: python pipeline/export.py MODEL OUT."""

try:
    from zorse.commands.export import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
