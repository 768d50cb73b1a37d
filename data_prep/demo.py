"""Draw the demo data set: python data_prep/demo.py OUT."""

try:
    from zorse_prep.demo import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
