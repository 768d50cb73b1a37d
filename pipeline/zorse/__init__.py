"""Zorse: CycleGAN training and translation. `from zorse import Translator` uses a trained model.

Nothing is imported until it is asked for, so that neither the version nor a command's --help waits for torch.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zorse.inference.translator import Translator as Translator
    from zorse.version import __version__ as __version__

if find_spec("zorse_prep") is None:  # in a checkout that is not installed it lies in a folder of its own
    sys.path.append(str(Path(__file__).resolve().parents[2] / "data_prep"))

__all__ = ["Translator", "__version__"]
HOMES = {"Translator": "zorse.inference.translator", "__version__": "zorse.version"}


def __getattr__(name: str):
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
