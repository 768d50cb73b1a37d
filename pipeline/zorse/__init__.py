"""Zorse: CycleGAN training and translation. `from zorse import Translator` uses a trained model.

Nothing is imported until it is asked for, so that neither the version nor a command's --help waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zorse.inference.translator import Translator as Translator

__version__ = "0.1.0"
__all__ = ["Translator", "__version__"]


def __getattr__(name: str):
    if name == "Translator":
        return import_module("zorse.inference.translator").Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
