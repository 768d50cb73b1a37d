"""Weights of junyanz's pytorch-CycleGAN-and-pix2pix (latest_net_G_A.pth, horse2zebra.pth), read and written.

That code's networks compute what ours do, under nearly the same names. What differs:
- its convolutions in front of an InstanceNorm have biases, which the norm subtracts again: left out, or written as 0;
- a dropout layer moves the second convolution of a residual block from place 5 to 6;
- files of before 2018 hold running statistics of InstanceNorms, which were never used;
- names may begin with `module.` or `_orig_mod.`, of networks that were saved parallel or compiled;
- without a norm, its inner convolutions have no biases; ours have, and begin with 0, so that only those that stayed 0
  can be written;
- its U-Nets are nested, a level in the other, and do not show whether they were trained with dropout.
Its D_A judges domain b, and D_B domain a.
"""

import dataclasses
import pickle
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from zorse.config.resolve import check_stored
from zorse.config.schema import Networks
from zorse.cyclegan.build import build_discriminator, build_generator
from zorse.cyclegan.layers import Norm
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator
from zorse.cyclegan.unet import UNet
from zorse.errors import UserError

FILES = {
    "generators.a_to_b": "net_G_A", "generators.b_to_a": "net_G_B",
    "discriminators.of_a": "net_D_B", "discriminators.of_b": "net_D_A",
}  # fmt: skip
UNETS = {7: "unet_128", 8: "unet_256"}  # by their halvings
Network = Generator | UNet | Discriminator


def files(source: Path) -> dict[str, Path]:
    """The files of weights at a path, by what they hold: {"generators.a_to_b": ..., ...}; empty where there are none.

    source: one file, whose name may say which it is (net_G_B), or a folder, where the names begin alike and `latest`
    comes before numbers, and a net_G.pth is its only generator.
    """
    if source.suffix == ".pth":
        return {next((ours for ours, theirs in FILES.items() if theirs in source.name), "generators.a_to_b"): source}
    epochs = {path.name.split("_net_")[0] for path in source.glob("*_net_G*.pth")} - {"latest"}
    for epoch in ("latest", *sorted(epochs, key=lambda epoch: (epoch.zfill(9), epoch), reverse=True)):
        found = {ours: source / f"{epoch}_{theirs}.pth" for ours, theirs in FILES.items()}
        alone = source / f"{epoch}_net_G.pth"
        found = {ours: path for ours, path in found.items() if path.exists()}
        if any(ours.startswith("generators") for ours in found):
            return found
        if alone.exists():
            return {"generators.a_to_b": alone} | found
    return {}


def read_generator(path: Path) -> tuple[Networks, Generator | UNet, int, int]:
    """What defines it, the generator in float32 on the CPU, and the channels of its input and output.

    Raises UserError for a file that holds something else.
    """
    weights = read(path)
    try:
        networks, c_in, c_out = _describe(weights)
        with torch.device("meta"):  # so that the file decides how much memory is taken, and not what it seems to be
            network = build_generator(networks, c_in, c_out)
        found = _matched(network, weights, networks)
        network.to_empty(device="cpu").load_state_dict(found)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        reason = f"has no {error.args[0]}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a ResNet or U-Net generator of junyanz's code ({reason}); give another file"
        ) from None
    return networks, network, c_in, c_out


def read_discriminator(path: Path, networks: Networks, c_in: int) -> Discriminator | None:
    """Read a discriminator; None if it is not the one that `networks` defines. Raises UserError for any other file."""
    weights, network = read(path), build_discriminator(networks, c_in)
    try:
        found = _matched(network, weights, networks)
    except Unusable as error:
        raise UserError(f"{path}: {error}; give another file") from None
    except (KeyError, ValueError):
        return None
    network.load_state_dict(network.state_dict() | found)  # which has no estimates of a spectral norm
    return network


class Unusable(ValueError):
    """A weight that no network can have."""


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without the prefixes of wrappers. Raises UserError for what is no such file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols of pickling
            stored = torch.load(path, map_location="cpu", weights_only=True)
        weights = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in stored.items()}
        if any(tensor.device.type != "cpu" or tensor.layout != torch.strided for tensor in weights.values()):
            raise ValueError("holds other than plain tensors")
        return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError:  # whose message says how to load it nevertheless
        raise UserError(f"{path}: holds more than tensors, or is damaged; give another file of weights") from None
    except Exception as error:  # broken files make torch's readers raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: not a file of weights ({reason}); give another") from None


def to_their_weights(network: Network, networks: Networks) -> dict[str, Tensor]:
    """The weights under that code's names, for torch.save. Raises UserError for networks that it does not have."""
    unlike = (
        ("--generator unet_residual", networks.generator == "unet_residual"),
        ("--upsample resize", networks.upsample == "resize"),
        ("--norm centred", networks.norm == "centred"),
        ("--spectral-norm", networks.spectral_norm and isinstance(network, Discriminator)),
    )
    for option, given in unlike:
        if given:
            raise UserError(f"junyanz's code has no {option}, so it cannot load these networks; export another format")
    weights, modules, without = {}, dict(network.named_modules()), _without_bias(network, networks)
    if learned := [name for name in without if modules[name].bias.any()]:
        raise UserError(
            f"junyanz's code has no biases with its --norm none, and {learned[0]} has some here, so it cannot load "
            "these networks; export another format"
        )
    for ours, theirs in _their_names(network, networks).items():
        module = modules[ours]
        parts = {name: tensor for name, tensor in module.state_dict().items() if name != "bias" or ours not in without}
        weights |= {f"{theirs}.{name}": tensor.clone() for name, tensor in parts.items()}
        if networks.norm == "instance" and isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is None:
            weights[f"{theirs}.bias"] = torch.zeros(module.out_channels)
        if isinstance(module, Norm) and networks.norm == "batch":
            weights[f"{theirs}.num_batches_tracked"] = torch.tensor(0)
    return weights


def _without_bias(network: Network, networks: Networks) -> set[str]:
    """The convolutions that have a bias here and none in that code, which has as many without a norm as with a batch
    norm.
    """
    if networks.norm != "none":
        return set()
    with torch.device("meta"):
        theirs = _twin(network, dataclasses.replace(networks, norm="batch"))
    modules = dict(theirs.named_modules())
    kinds = nn.Conv2d | nn.ConvTranspose2d
    ours = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    return {name for name, module in ours.items() if module.bias is not None and modules[name].bias is None}


def _twin(network: Network, networks: Networks) -> Network:
    """A network of the same kind, for images of three channels."""
    if isinstance(network, Discriminator):
        return build_discriminator(networks, 3)
    return build_generator(networks, 3, 3)


def _describe(weights: dict[str, Tensor]) -> tuple[Networks, int, int]:
    """The options that make such a generator, and the channels of its input and output."""
    if "model.model.0.weight" in weights:
        depth = 2 + max(name.count(".3.model") for name in weights)
        if depth not in UNETS:
            raise ValueError(f"a U-Net of {depth} halvings")
        first, last, norm = (f"model.model.{place}.weight" for place in ("0", "3", "1.model.2"))
        kind = {"generator": UNETS[depth]}
        c_out = weights[last].shape[1]
    else:
        blocks = len({name.split(".")[1] for name in weights if ".conv_block." in name})
        first, last, norm = "model.1.weight", f"model.{17 + blocks}.weight", "model.2.weight"
        with_dropout = weights.get("model.10.conv_block.6.weight", torch.empty(0)).ndim == 4
        kind = {"generator_blocks": blocks, "dropout": with_dropout}
        c_out = weights[last].shape[0]
    normed = "batch" if norm in weights else "instance"
    if normed == "instance" and first.replace("weight", "bias") not in weights:
        normed = "none"  # that code has biases with an InstanceNorm alone
    channels, c_in = weights[first].shape[:2]
    networks = Networks(generator_channels=channels, norm=normed, **kind)
    check_stored("networks", networks)
    return networks, c_in, c_out


def _matched(network: Network, weights: dict[str, Tensor], networks: Networks) -> dict[str, Tensor]:
    """The weights in float32 under our names.

    Raises KeyError for a weight that is missing, ValueError for one that is too many or of another size, and Unusable
    for what is no finite number.
    """
    ours, found, known = network.state_dict(), {}, set()
    for our_module, their_module in _their_names(network, networks).items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            our_name, their_name = f"{our_module}.{part}", f"{their_module}.{part}"
            known.add(their_name)  # of ours or not: inert biases, and statistics that were never used
            if our_name not in ours:
                continue
            if their_name not in weights and part == "bias":
                found[our_name] = torch.zeros(ours[our_name].shape)
                continue
            theirs = weights[their_name]
            if theirs.shape != ours[our_name].shape:
                sizes = (tuple(tensor.shape) for tensor in (theirs, ours[our_name]))
                raise ValueError("{} of {}, and not {}".format(their_name, *sizes))
            if not theirs.is_floating_point():
                raise Unusable(f"{their_name} is of type {str(theirs.dtype).removeprefix('torch.')}, and not of floats")
            found[our_name] = theirs.float()
            if not found[our_name].isfinite().all():
                raise Unusable(f"{their_name} contains infinite or NaN values")
    if unknown := weights.keys() - known:
        raise ValueError(f"has {min(unknown)}")
    return found


def _their_names(network: Network, networks: Networks) -> dict[str, str]:
    """The names of all convolutions and norms: {ours: theirs}."""
    kinds = nn.Conv2d | nn.ConvTranspose2d | Norm
    names = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    if isinstance(network, Discriminator):
        return {
            name: name.replace("model.", "net.", 1) if networks.discriminator == "pixel" else name for name in names
        }
    if isinstance(network, Generator):
        later = int(networks.dropout)
        return {
            name: re.sub(r"(conv_block\.)([56])$", lambda match: f"{match[1]}{int(match[2]) + later}", name)
            for name in names
        }
    return {name: _in_their_u_net(*name.split("."), network.depth) for name in names}


def _in_their_u_net(side: str, place: str, depth: int) -> str:
    level, is_norm = divmod(int(place), 2)
    if level == 0:
        return f"model.model.{0 if side == 'down' else 3}"
    inside = "model.model.1.model" + (level - 1) * ".3.model"
    at = 1 if side == "down" else 3 if level == depth - 1 else 5
    return f"{inside}.{at + is_norm}"
