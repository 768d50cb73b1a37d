"""Zorse's data preparation: two folders or tables of images in, WebDataset shards and a manifest out."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("zorse") is None:  # in a checkout that is not installed it lies in a folder of its own
    sys.path.append(str(Path(__file__).resolve().parents[2] / "pipeline"))
