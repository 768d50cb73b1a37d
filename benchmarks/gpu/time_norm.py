"""How fast the fused norm's kernels move memory, at the networks' shapes at 256 pixels, forward and backward.

Without a GPU it runs at small shapes in Triton's interpreter (TRITON_INTERPRET=1).
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from call_timer import GPU, milliseconds
from records import Records

from zorse.ops.fused_norm import _backward, _forward

LIKE = {"device": "cuda", "dtype": torch.bfloat16} if GPU else {"device": "cpu", "dtype": torch.float32}
MORE_THAN_A_CACHE = 200e6 if GPU else 0  # bytes


class Shape(NamedTuple):
    channels: int
    side: int
    slope: float
    pad: int
    residual: bool


SHAPES = [
    Shape(256, 64, 0.0, 1, False),  # in a residual block
    Shape(256, 64, 1.0, 1, True),  # at its end
    Shape(64, 256, 0.0, 3, False),
    Shape(128, 128, 0.0, 0, False),
    Shape(512, 31, 0.2, 0, False),  # of a discriminator
]
SMALL = [Shape(8, 4, 1.0, 1, True)]


def draw(samples: int, channels: int, side: int) -> torch.Tensor:
    return torch.randn(samples, channels, side, side, **LIKE).contiguous(memory_format=torch.channels_last)


def measure(shape: Shape, samples: int) -> dict[str, float]:
    """Over so many inputs that none is still in a cache when its turn comes again."""
    size = LIKE["dtype"].itemsize * samples * shape.channels * shape.side**2
    inputs = [draw(samples, shape.channels, shape.side) for _ in range(min(24, max(2, int(MORE_THAN_A_CACHE / size))))]
    residual = draw(samples, shape.channels, shape.side + 2) if shape.residual else None
    how = (shape.slope, shape.pad)
    padded = int(shape.residual)  # pixels around the residual
    out, statistics = _forward(inputs[0], residual, *how, padded)
    gradient = torch.randn_like(out)
    forward = milliseconds(lambda: [_forward(x, residual, *how, padded) for x in inputs], 2) / len(inputs)
    backward = milliseconds(
        lambda: [_backward(gradient, x, statistics, *how, shape.residual, padded) for x in inputs], 2
    ) / len(inputs)
    x_bytes, out_bytes = size, out.numel() * out.element_size()
    besides = x_bytes if shape.residual else 0
    return {
        "forward_us": round(1000 * forward, 1),
        "backward_us": round(1000 * backward, 1),
        "forward_gb_per_s": round((2 * x_bytes + out_bytes + besides) / forward / 1e6),
        "backward_gb_per_s": round((3 * x_bytes + 2 * out_bytes + besides) / backward / 1e6),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    records = Records(parser.parse_args().results, "norm")
    for samples, shape in product((8, 4, 2, 1) if GPU else (1,), SHAPES if GPU else SMALL):
        case = {"name": "fused norm", "n": samples, **shape._asdict()}
        try:
            records.tell(**case, **measure(shape, samples))
        except Exception as error:
            records.tell_error(error, **case)
    return int(records.failed)


if __name__ == "__main__":
    sys.exit(main())
