"""The training step against the paper, read plainly: unbatched, one network call at a time, two optimizers."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from zorse.config.schema import Losses, Networks
from zorse.cyclegan.image_pool import ImagePool
from zorse.cyclegan.step import CycleGANStep
from zorse.keyed_random import HISTORY, key

SIZE, SEED, BLOCKS = 32, 3, 2
NETWORKS = Networks(generator_channels=4, generator_blocks=BLOCKS, discriminator_channels=4, discriminator_layers=2)


def norm(x):
    """Instance normalisation by its definition (Ulyanov et al. 2016): per sample and channel, biased variance."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean((2, 3), keepdim=True) + 1e-5)


def reflect(x, n):
    return F.pad(x, (n, n, n, n), mode="reflect")


def generate(p, x):
    """c7s1-k, d2k, d4k, R4k x BLOCKS, u2k, uk, c7s1-3 (appendix 7.2). p: weights in their order, then the last bias."""
    p = iter(p)
    x = F.relu(norm(F.conv2d(reflect(x, 3), next(p))))
    x = F.relu(norm(F.conv2d(x, next(p), stride=2, padding=1)))
    x = F.relu(norm(F.conv2d(x, next(p), stride=2, padding=1)))
    for _ in range(BLOCKS):
        h = F.relu(norm(F.conv2d(reflect(x, 1), next(p))))
        x = x + norm(F.conv2d(reflect(h, 1), next(p)))
    x = F.relu(norm(F.conv_transpose2d(x, next(p), stride=2, padding=1, output_padding=1)))
    x = F.relu(norm(F.conv_transpose2d(x, next(p), stride=2, padding=1, output_padding=1)))
    return torch.tanh(F.conv2d(reflect(x, 3), next(p), next(p)))


def judge(p, x):
    """Ck, C2k, C4k and one logit a patch, for two normed layers."""
    p = iter(p)
    x = F.leaky_relu(F.conv2d(x, next(p), next(p), stride=2, padding=1), 0.2)
    x = F.leaky_relu(norm(F.conv2d(x, next(p), stride=2, padding=1)), 0.2)
    x = F.leaky_relu(norm(F.conv2d(x, next(p), padding=1)), 0.2)
    return F.conv2d(x, next(p), next(p), padding=1)


class PaperBuffer:
    """The image buffer of one slot and domain, as a list; its coins are the run's, looked up by position."""

    def __init__(self, size, domain):
        self.size, self.domain, self.images = size, domain, []

    def query(self, fake, position):
        if len(self.images) < self.size:
            self.images.append(fake)
            return fake
        bits = key(SEED, self.domain, HISTORY, position)
        if bits % 2 == 0:
            return fake
        place = (bits // 2) % self.size
        old, self.images[place] = self.images[place], fake
        return old


class PaperCycleGAN:
    """Equations 1 to 3 with least squares, D's loss halved, identity term; G and F step first, then D_X and D_Y."""

    def __init__(self, model, history, batch, identity_weight=0.5):
        def copy(network):
            return [p.detach().clone().requires_grad_() for p in network.parameters()]

        self.G, self.F = (copy(model.generators[way]) for way in ("a_to_b", "b_to_a"))
        self.DX, self.DY = (copy(model.discriminators[of]) for of in ("of_a", "of_b"))
        self.identity_weight = identity_weight
        self.optimizer_g = torch.optim.Adam(self.G + self.F, lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.DX + self.DY, lr=2e-4, betas=(0.5, 0.999))
        self.buffers = [[PaperBuffer(history, domain) for domain in (0, 1)] for _ in range(batch)]

    def step(self, xs, ys, first_position):
        n = len(xs)
        losses = dict.fromkeys(("G", "F", "cycle_x", "cycle_y", "same_x", "same_y", "DX", "DY"), 0.0)
        fakes = []
        for x, y in zip(xs.split(1), ys.split(1), strict=True):
            fake_y, fake_x = generate(self.G, x), generate(self.F, y)
            fakes.append((fake_x.detach(), fake_y.detach()))
            losses["G"] += ((judge(self.DY, fake_y) - 1) ** 2).mean() / n
            losses["F"] += ((judge(self.DX, fake_x) - 1) ** 2).mean() / n
            losses["cycle_x"] += (generate(self.F, fake_y) - x).abs().mean() / n
            losses["cycle_y"] += (generate(self.G, fake_x) - y).abs().mean() / n
            losses["same_x"] += (generate(self.F, x) - x).abs().mean() / n
            losses["same_y"] += (generate(self.G, y) - y).abs().mean() / n
        total = losses["G"] + losses["F"] + 10 * (losses["cycle_x"] + losses["cycle_y"])
        total = total + 10 * self.identity_weight * (losses["same_x"] + losses["same_y"])
        self.optimizer_g.zero_grad()
        total.backward()
        self.optimizer_g.step()

        for i, (x, y) in enumerate(zip(xs.split(1), ys.split(1), strict=True)):
            old_x = self.buffers[i][0].query(fakes[i][0], first_position + i)
            old_y = self.buffers[i][1].query(fakes[i][1], first_position + i)
            for name, D, real, old in (("DX", self.DX, x, old_x), ("DY", self.DY, y, old_y)):
                losses[name] += 0.5 * (((judge(D, real) - 1) ** 2).mean() + (judge(D, old) ** 2).mean()) / n
        self.optimizer_d.zero_grad()
        (losses["DX"] + losses["DY"]).backward()
        self.optimizer_d.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def parameters(self):
        return self.G + self.F + self.DX + self.DY


def ours(dtype, history_size, batch, weights, compiled=False):
    model = CycleGANStep(NETWORKS, weights, SEED).to(dtype)
    if compiled:
        model.compile_networks()
    slots = list(range(batch))
    history = {
        name: ImagePool(slots, history_size, (SIZE, SIZE), domain=number, seed=SEED, dtype=dtype)
        for name, number in (("a", 0), ("b", 1))
    }
    adam = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)

    def step(a, b, first_position):
        positions = [first_position + slot for slot in slots]
        plans = {name: images.plan(slots, positions) for name, images in history.items()}
        adam.zero_grad()
        total, named = model(a, b, history, plans)
        total.backward()
        adam.step()
        return {name: float(loss) for name, loss in named.items()}

    return model, step


MEASURES = ("flat", "response", "change")  # of the generators, which no loss is computed from
SAME = {
    "adversarial_a_to_b": "G",
    "adversarial_b_to_a": "F",
    "cycle_a": "cycle_x",
    "cycle_b": "cycle_y",
    "identity_a": "same_x",
    "identity_b": "same_y",
    "discriminator_a": "DX",
    "discriminator_b": "DY",
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("identity_weight", [0.5, 0.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_five_steps_are_the_papers(dtype, tolerance, identity_weight, batch):
    weights = Losses(identity_weight=identity_weight)
    model, step = ours(dtype, 2, batch, weights)  # two places, so that old images are used within five steps
    paper = PaperCycleGAN(model, 2, batch, identity_weight)
    torch.manual_seed(0)
    for number in range(5):
        a, b = torch.rand(2, batch, 3, SIZE, SIZE, dtype=dtype) * 2 - 1
        mine, theirs = step(a, b, number * batch), paper.step(a, b, number * batch)
        for name, loss in mine.items():
            if not name.startswith(MEASURES):
                assert loss == pytest.approx(theirs[SAME[name]], abs=tolerance), (number, name)
        if dtype == torch.float64:
            for p, q in zip(model.parameters(), paper.parameters(), strict=True):
                torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_compiled_steps_are_the_same_steps():
    """Also when the networks are called between them with other sizes, which are not compiled."""
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    batches = [torch.rand(2, 1, 3, SIZE, SIZE, dtype=torch.float64) * 2 - 1 for _ in range(3)]
    results = []
    for compiled in (False, True):
        model, step = ours(torch.float64, 2, 1, Losses(), compiled)
        losses = []
        for number, (a, b) in enumerate(batches):
            losses.append(step(a, b, number))
            with torch.no_grad():
                model.generators["a_to_b"](torch.cat([a, b, a])[..., : 16 + 4 * number])
        results.append((losses, model.state_dict()))
    (losses, weights), (compiled_losses, compiled_weights) = results
    assert compiled_losses == [pytest.approx(row, abs=1e-11) for row in losses]
    torch.testing.assert_close(compiled_weights, weights, rtol=0, atol=1e-8)
    # A generator at batch 2 and 1, a discriminator at batch 2, and at 1 with a gradient to its input alone.
    assert counters["stats"]["unique_graphs"] == 4


def test_history_is_used_in_the_reference_run():
    """The test above would not see a history that returns its input; this says that it returns older images."""
    used = [key(SEED, domain, HISTORY, position) & 1 for domain in (0, 1) for position in range(2, 5)]
    assert any(used)


def test_losses_are_fp32_under_bf16():
    model, _ = ours(torch.float32, 2, 1, Losses())
    a, b = torch.rand(2, 1, 3, SIZE, SIZE) * 2 - 1
    history = {name: ImagePool([0], 2, (SIZE, SIZE), domain=i, seed=0) for i, name in enumerate("ab")}
    plans = {name: images.plan([0], [0]) for name, images in history.items()}
    with torch.autocast("cpu", torch.bfloat16):
        assert model.generators["a_to_b"](a).dtype == torch.bfloat16
        total, named = model(a, b, history, plans)
    assert {total.dtype, *(loss.dtype for loss in named.values())} == {torch.float32}


def test_generator_losses_leave_discriminators_alone():
    """Without its own loss a discriminator gets no gradient: nothing of the generators' losses reaches it."""
    model, _ = ours(torch.float64, 0, 1, Losses())
    image = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    model._frozen("of_a", image).sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
