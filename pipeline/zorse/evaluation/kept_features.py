"""Features of real images, kept beside their shards: they are the same in each evaluation."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from zorse.files import write_durably


def load_features(file: Path | None, count: int) -> Tensor | None:
    """Cached features [count, D]; None where there are none yet, or not what was written."""
    try:
        if not file or not file.is_file():
            return None
        with safe_open(file, framework="pt") as stored:
            features, known = stored.get_tensor("features"), (stored.metadata() or {}).get("sha256")
    except (OSError, RuntimeError, SafetensorError):  # RuntimeError: of torch, for a file that is gone by now
        return None
    whole = features.ndim == 2 and len(features) == count and known == sha256(features)
    return features if whole else None


def sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def save_features(file: Path | None, features: Tensor) -> None:
    """Cache them if that is possible: shards may lie where nothing can be written."""
    try:
        if file:
            file.parent.mkdir(exist_ok=True)
            write_durably(file, to_bytes({"features": features}, {"sha256": sha256(features)}))
    except OSError:
        pass
