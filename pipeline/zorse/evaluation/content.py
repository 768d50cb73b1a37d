"""Whether translations keep what their images show, and how near they are to the truth where that is known.

structure_distance: between a test image and its translation, by features of its parts. mae, psnr, ssim: between a
translation and the partner of its image, pixel by pixel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zorse.data.pixels import ends, to_network
from zorse_prep.format import Arrays, Mode, full_level

HIGHEST_PSNR = 10 * math.log10(12 * 255**2)  # dB, of the error that rounding to 8 bits makes


def structure_distance(one: Tensor, other: Tensor) -> Tensor:
    """How differently the parts of images are arranged: feature maps [n, D, h, w] of both, to float64 [n].

    The structure of an image is its self-similarity, the cosine similarity of each two cells of its feature map, which
    says what parts are alike and not what they look like: Kolkin et al. 2019 (arXiv 1904.12785), and Tumanyan et al.
    2022 (arXiv 2201.00424), who take the patches of a vision transformer for cells. The distance is 1 - r, where r is
    the correlation of the two images' similarities, as between representations in Kriegeskorte et al. 2008 (doi
    10.3389/neuro.06.004.2008): how far similarities spread, which contrast changes, does not count. 0 for images of one
    structure, about 1 for images that have none in common.

    By EfficientNet-Lite0, of 24 horses at 256 pixels: 0.02 with less contrast, 0.06 inverted, 0.07 with channels
    exchanged or in grey, 0.3 under stripes, 0.6 mirrored, 0.8 for another horse or an even area.
    """
    one, other = _structure(one), _structure(other)
    # Of lengths 1, this is 1 - r, but 0 to the bit for equal maps; of one whose cells are all alike, it is 1.
    lengths = one.square().sum(1) + other.square().sum(1)
    return (one - other).square().sum(1) / lengths.clamp_min(1)


def _structure(maps: Tensor) -> Tensor:
    """Similarities of each two cells, [n, pairs], with a mean of 0 and a length of 1, or 0 if all cells are alike."""
    cells = F.normalize(maps.double().flatten(2), dim=1)
    first, second = torch.triu_indices(cells.shape[2], cells.shape[2], offset=1)
    similarities = (cells.transpose(1, 2) @ cells)[:, first, second]
    return F.normalize(similarities - similarities.mean(1, keepdim=True), dim=1)


def partner_errors(images: Tensor, partners: Tensor, mode: Mode) -> Tensor:
    """Images and their partners, pixels [n, C, H, W] of a mode, compared: float64 [n, 3].

    Mean absolute difference in the domain's units, which are levels for photographs; PSNR in dB; SSIM (Wang et al.
    2004, doi 10.1109/TIP.2003.819861). An error that is too small for 8 bits has the PSNR of their rounding.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    one, other = (to_network(pixels, torch.device("cpu"), torch.float64) for pixels in (images, partners))
    difference = ((one - other).abs() * units_of(mode)).mean((1, 2, 3))
    one, other = (one + 1) / 2, (other + 1) / 2
    psnr = peak_signal_noise_ratio(one, other, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(one, other, data_range=1.0, reduction="none")
    return torch.stack([difference, psnr.clamp_max(HIGHEST_PSNR), ssim.reshape(len(one))], dim=1)


def mean_partner_errors(errors: Tensor) -> dict[str, float]:
    """Means over images of the rows of `partner_errors`; rows of NaN are those without a partner."""
    errors = errors[~errors[:, 0].isnan()]
    if not len(errors):
        return {}
    return dict(zip(("mae", "psnr", "ssim"), errors.mean(0).tolist(), strict=True))


def units_of(mode: Mode) -> Tensor:
    """How much a difference of 1 in [-1, 1] is in the units of a domain, by channel, [C or 1, 1, 1]."""
    if isinstance(mode, Arrays):
        low, high = ends(mode)
        return torch.from_numpy((high - low) / 2)
    return torch.full((1, 1, 1), full_level(mode) / 2, dtype=torch.float64)
