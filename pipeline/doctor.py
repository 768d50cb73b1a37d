"""What would fail, before an allocation burns: accelerate launch pipeline/doctor.py [the options of train.py]."""

try:
    from zorse.commands.doctor import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
