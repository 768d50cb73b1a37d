"""Tensors from safetensors files: names, shapes and types first, from the header; then the weights, which are finite.

Networks are described on torch's meta device, where they take no memory, so that a file decides how much is allocated,
and not the configuration beside it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zorse.errors import UserError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TRAINED = (torch.float32, torch.float64)  # of what training keeps
Shapes = Mapping[str, tuple[int | None, ...]]


def read_tensors(
    file: Path,
    expected: Shapes,
    fix: str,
    *,
    prefix: str = "",
    dtypes: tuple[torch.dtype, ...] = TRAINED,
    among_others: bool = False,
) -> dict[str, Tensor]:
    """Read the tensors of these names and shapes, which have `prefix` in the file and are named without it.

    expected: {name: shape}, where None stands for any number. among_others: there may be more of this prefix. Raises
    UserError for a file that is not a whole safetensors file, has other tensors or another type of numbers than
    `dtypes`, or numbers that are not finite.
    """
    with _opened(file, fix) as stored:
        # The header alone: names, shapes and types.
        names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
        parts = {name.removeprefix(prefix): stored.get_slice(name) for name in names}
        if among_others:
            parts = {name: part for name, part in parts.items() if name in expected}
        if problem := mismatch({name: tuple(part.get_shape()) for name, part in parts.items()}, expected):
            raise UserError(f"{file}: {problem}; {fix}")
        for name, part in parts.items():
            if DTYPES.get(part.get_dtype()) not in dtypes:
                wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
                raise UserError(f"{file}: {name} is of type {part.get_dtype()}, and not {wanted}; {fix}")
        # The weights, which take as much memory as the file.
        tensors = {name: stored.get_tensor(prefix + name) for name in parts}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"{file}: {name} contains infinite or NaN values; {fix}")
    return tensors


def is_empty(file: Path, fix: str) -> bool:
    """Whether a file has no tensors. Raises UserError for what is not a whole safetensors file."""
    with _opened(file, fix) as stored:
        return not stored.keys()


def mismatch(found: Shapes, expected: Shapes) -> str | None:
    """What is wrong with the names and shapes of tensors, in words that follow the name of their file."""
    if missing := expected.keys() - found.keys():
        return f"lacks {shown(min(missing))}, which these networks have"
    if unknown := found.keys() - expected.keys():
        return f"has {shown(min(unknown))}, which these networks lack"
    for name, shape in expected.items():
        if len(found[name]) != len(shape) or any(
            wanted not in (None, size) for size, wanted in zip(found[name], shape, strict=True)
        ):
            return f"{name} has shape {list(found[name])}, and {list(shape)} in these networks"
    return None


def load_network(
    build: Callable[[], nn.Module], file: Path, fix: str, *, prefix: str = "", dtypes: tuple[torch.dtype, ...] = TRAINED
) -> nn.Module:
    """Build a network and load its weights: float32, on the CPU. Raises UserError where the file has others."""
    with torch.device("meta"):
        network = build()
    tensors = read_tensors(file, shapes_in(network), fix, prefix=prefix, dtypes=dtypes)
    network.to_empty(device="cpu").load_state_dict(tensors)
    return network


def shapes_in(module: nn.Module) -> Shapes:
    """The shapes of the parameters and buffers of a module."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def shown(name: str) -> str:
    """A tensor's name in a message, which may be anything."""
    return name.encode("ascii", "backslashreplace").decode()[:100]


def _opened(file: Path, fix: str):
    if not file.is_file():  # a pipe would be waited for
        raise UserError(f"{file}: {'not a regular file' if file.exists() else 'is missing'}; {fix}")
    try:
        return safe_open(file, framework="pt")
    except (OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: of torch, for a file that is gone by now
        raise UserError(
            f"{file}: is not a complete safetensors file ({str(error).splitlines()[0]:.150}); {fix}"
        ) from None
