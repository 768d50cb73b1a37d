"""Turn two unpaired image domains into WebDataset shards: python data_prep/shard.py NAME_OR_OPTIONS."""

from zorse_prep.shard import main

if __name__ == "__main__":
    main()
