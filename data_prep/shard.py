"""Turn two unpaired image domains into WebDataset shards: python data_prep/shard.py NAME_OR_OPTIONS."""

try:
    from zorse_prep.shard import main
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: {missing.name} is not installed; run make install, or pip install -e . here") from None

if __name__ == "__main__":
    main()
