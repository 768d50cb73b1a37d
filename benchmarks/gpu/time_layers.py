"""What the device reaches at best, and what each convolution of the networks reaches of it, forward and backward.

Without a GPU the sizes are small: then only that it runs is shown.
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from call_timer import GPU, milliseconds
from records import Records

DEVICE, KIND = ("cuda", torch.bfloat16) if GPU else ("cpu", torch.float32)
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


class Layer(NamedTuple):
    name: str
    c_in: int
    c_out: int
    kernel: tuple[int, int]
    side: int  # of the input, at 256 pixels
    stride: int = 1
    pad: int = 0
    transposed: bool = False


LAYERS = [
    Layer("residual", 256, 256, (3, 3), 66),
    Layer("stem", 3, 64, (7, 7), 262),
    Layer("down1", 64, 128, (3, 3), 256, 2, 1),
    Layer("down2", 128, 256, (3, 3), 128, 2, 1),
    Layer("up1", 256, 128, (3, 3), 64, 2, 1, True),
    Layer("up2", 128, 64, (3, 3), 128, 2, 1, True),
    Layer("last", 64, 3, (7, 7), 262),
    Layer("last packed", 64, 21, (7, 1), 262),
    Layer("D0", 3, 64, (4, 4), 256, 2, 1),
    Layer("D1", 64, 128, (4, 4), 128, 2, 1),
    Layer("D2", 128, 256, (4, 4), 64, 2, 1),
    Layer("D3", 256, 512, (4, 4), 32, 1, 1),
    Layer("D last", 512, 1, (4, 4), 31, 1, 1),
]


def ceilings() -> dict[str, float]:
    """Bytes and operations a second of a large copy and of a large matrix product: more no layer can reach."""
    source = torch.empty(512 * 2**20 if GPU else 2**20, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source))
    side = 8192 if GPU else 128
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=KIND)
    multiplied = milliseconds(lambda: torch.mm(a, b))
    return {
        "copy_gb_per_s": round(2 * source.numel() / copy / 1e6),
        "product_tflops": round(2 * side**3 / multiplied / 1e9, 1),
    }


def convolution(layer: Layer, samples: int, layout: torch.memory_format) -> dict[str, dict]:
    """Microseconds and TFLOP/s of the forward pass and of both gradients."""
    side = layer.side if GPU else max(layer.side // 8, 16)
    x = torch.randn(samples, layer.c_in, side, side, device=DEVICE, dtype=KIND).contiguous(memory_format=layout)
    shape = (layer.c_in, layer.c_out) if layer.transposed else (layer.c_out, layer.c_in)
    weight = torch.randn(*shape, *layer.kernel, device=DEVICE, dtype=KIND).contiguous(memory_format=layout)
    output_padding = [1, 1] if layer.transposed else [0, 0]
    how = ([layer.stride] * 2, [layer.pad] * 2, [1, 1], layer.transposed, output_padding, 1)
    y = torch.ops.aten.convolution(x, weight, None, *how)
    gradient = torch.randn_like(y)
    places = x if layer.transposed else y
    flop = 2 * weight.numel() * samples * places.shape[2] * places.shape[3]

    def backward(*wanted: bool):
        return lambda: torch.ops.aten.convolution_backward(gradient, x, weight, None, *how, [*wanted, False])

    calls = {
        "forward": lambda: torch.ops.aten.convolution(x, weight, None, *how),
        "dgrad": backward(True, False),
        "wgrad": backward(False, True),
    }
    took = {name: milliseconds(call) for name, call in calls.items()}
    return {name: {"us": round(1000 * ms, 1), "tflops": round(flop / ms / 1e9, 1)} for name, ms in took.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    records = Records(options.results, "layer")
    try:
        records.tell(name="ceilings", **ceilings())
    except Exception as error:
        records.tell_error(error, name="ceilings")
    for samples, layer in product((8, 4, 2, 1) if GPU else (1,), LAYERS):
        for layout in LAYOUTS if GPU and samples in (1, 4) else ("channels_last",):
            case = {"name": layer.name, "n": samples, "layout": layout}
            try:
                records.tell(**case, **convolution(layer, samples, LAYOUTS[layout]))
            except Exception as error:  # cuDNN may have no kernel for one of them
                records.tell_error(error, **case)
    return int(records.failed)


if __name__ == "__main__":
    sys.exit(main())
