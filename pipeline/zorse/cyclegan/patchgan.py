"""PatchGAN and PixelGAN, the discriminators. (paper: appendix 7.2)"""

from torch import Tensor, nn

from zorse.cyclegan.layers import LEAKY, Normed, NormKind, SpectralConv, activate


class Discriminator(nn.Module):
    """PatchGAN: Ck, C2k, ..., one logit per overlapping patch. [N, c_in, H, W] -> [N, 1, H', W'].

    With 3 layers a logit sees 70x70 pixels, and 256x256 gives 30x30 logits. pixels: a logit for each pixel, which sees
    it alone (PixelGAN, Isola et al. 2017); it has 1 layer. spectral: every convolution is a SpectralConv.
    """

    def __init__(
        self,
        channels: int = 64,
        layers: int = 3,
        c_in: int = 3,
        *,
        norm: NormKind = "instance",
        pixels: bool = False,
        spectral: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        self.layers = layers = 1 if pixels else layers
        conv, kernel = SpectralConv if spectral else nn.Conv2d, (1, 1) if pixels else (4, 4)
        same, half = ({}, {}) if pixels else ({"padding": 1}, {"padding": 1, "stride": 2})
        self.model = Normed(norm, fused)
        self.model["0"] = conv(c_in, channels, kernel, **half)
        width = channels
        for layer in range(1, layers + 1):
            # The paper stops widening at 8k, and only the last normed layer keeps its resolution.
            wider, how = min(2 * width, 8 * channels), same if layer == layers else half
            self.model.put(3 * layer - 1, conv(width, wider, kernel, bias=self.model.bias, **how))
            width = wider
        self.model[str(3 * layers + 2)] = conv(width, 1, kernel, bias=not pixels or norm != "batch", **same)

    def forward(self, image: Tensor) -> Tensor:
        x = activate(self.model["0"](image), LEAKY)
        for layer in range(1, self.layers + 1):
            x = self.model.at(3 * layer - 1, x, LEAKY)
        return self.model[str(3 * self.layers + 2)](x)

    def power_iteration(self) -> None:
        """After a step: bring the estimates of the SpectralConvs up to their new weights."""
        for module in self.modules():
            if isinstance(module, SpectralConv):
                module.power_iteration()
