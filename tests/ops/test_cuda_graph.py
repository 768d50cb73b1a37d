"""A captured update is the update: on a GPU as a CUDA graph, on a CPU by noting its operators and repeating these."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from running import TINY, script
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zorse.config.schema import Compute, Config, Images, Losses, Networks, Optimization
from zorse.data.order import RankSlice
from zorse.errors import UserError
from zorse.ops.cuda_graph import WARM_UP, CapturedGraph
from zorse.training.state import TrainState
from zorse.training.update import Update

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
MODES = {"a": "rgb", "b": "rgb"}
BATCH, STEPS = 4, WARM_UP + 6


@pytest.fixture(autouse=True)
def any_device():
    """An Accelerator is on the device of the first one in its process, whatever it is asked for."""
    forget()
    yield
    forget()


def forget():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Operators(TorchDispatchMode):
    """Notes each operator with its arguments, and can do them all again: what a CUDA graph does with kernels."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        self.noted.append((function, args, kwargs or {}, results))
        return results

    def again(self):
        for function, args, kwargs, results in self.noted:
            for old, new in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)  # into the memory that later operators read


def note_operators(update):
    """graph.capture for a CPU, which does the function once; that leaves no trace in the state."""

    def capture(function, stream):
        state = [
            *update.model.state_dict().values(),
            *tree_leaves([list(values.values()) for values in update.optimizer.state.values()]),
            *[images.images for images in update.pools.values()],
        ]
        before = [tensor.clone() for tensor in state]
        for each in update.graph.inputs:
            each.zero_()
        with Operators() as operators:
            results = function()
        with torch.no_grad():
            for tensor, old in zip(state, before, strict=True):
                tensor.copy_(old)

        def replay():
            with torch.no_grad():
                operators.again()
            return results

        return replay

    return capture


def losses_and_weights(device, captured, accumulate=1, dropout=False, **compute):
    """Losses of a few updates with changing learning rates and images, weights after and before, gradient norms."""
    config = Config(
        images=Images(load_size=32, crop_size=32),
        networks=Networks(generator_channels=4, generator_blocks=1, discriminator_channels=4, discriminator_layers=2,
                          dropout=dropout),
        losses=Losses(image_pool_size=2),
        optimization=Optimization(batch=BATCH),
        compute=Compute(cuda_graph=captured, grad_accum_steps=accumulate, dtype="float64", **compute),
    )  # fmt: skip
    accelerator = Accelerator(cpu=device == "cpu")
    assert accelerator.device.type == device
    dataset, rank_slice = SimpleNamespace(modes=MODES, means=None, epoch=1), RankSlice(0, 1, accumulate, BATCH)
    state = TrainState.build(config, dataset, rank_slice, accelerator)
    model, update = state.model, Update(accelerator, state)
    if captured and device == "cpu":
        update.graph.capture = note_operators(update)
    first, norms = weights(model), {}
    networks = {"a_to_b": model.generators["a_to_b"], "discriminator_b": model.discriminators["of_b"]}

    def note_norms(*_):
        for name, network in networks.items():
            norms[name] = sum(each.grad.square().sum() for each in network.parameters()).sqrt().item()

    if not captured:
        update.optimizer.optimizer.register_step_pre_hook(note_norms)
    images = torch.Generator().manual_seed(0)
    found = []
    for step in range(STEPS):
        each = BATCH // accumulate
        pairs = [
            {
                "positions": list(range(first, first + each)),
                **{
                    name: torch.randint(0, 256, (each, 3, 32, 32), generator=images, dtype=torch.uint8) for name in "ab"
                },
            }
            for first in range(step * BATCH, step * BATCH + BATCH, each)
        ]
        rates = (1e-4 * 2**step, 2e-4 * 2**step)  # the last ones make most of the way
        found += [loss.item() for named in update(pairs, rates, True) for loss in named.values()]
    assert not captured or update.graph.calls == STEPS > WARM_UP
    measured = {name: norm.item() for name, norm in update.gradient_norms.items()}
    assert len(measured) == 4 and measured == pytest.approx(measured | norms, rel=1e-12)
    return torch.tensor(found), weights(model), first, measured


def weights(model):
    return torch.cat([tensor.detach().cpu().flatten() for tensor in model.parameters()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "how",
    [{}, {"accumulate": 2, "dropout": True}, pytest.param({"activation_checkpointing": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_captured_update_is_the_update(device, how):
    (losses, last, first, norms), (others, other, same, norms_there) = (
        losses_and_weights(device, captured, **how) for captured in (False, True)
    )
    assert torch.equal(same, first)
    # Learning rates on the device are float32.
    torch.testing.assert_close(others, losses, rtol=1e-5, atol=0)
    assert (other - last).norm() < 1e-5 * (last - first).norm()
    assert norms_there == pytest.approx(norms, rel=1e-3)


def test_what_a_recording_would_miss_is_seen_here():
    """The check of the check: a number that the host changes from call to call does not reach what is repeated."""
    factor = [1.0]
    x = torch.ones(3)
    with Operators() as operators:
        result = x * factor[0]
    factor[0], x[:] = 5.0, 2.0
    operators.again()
    assert result.tolist() == [2.0, 2.0, 2.0]


def test_what_cannot_be_captured_is_told():
    def failing(function, stream):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    captured = CapturedGraph(lambda inputs: inputs, torch.device("cpu"), failing)
    for _ in range(WARM_UP):
        captured([torch.ones(2)])
    with pytest.raises(UserError, match=r"^--cuda-graph: does not work here \(operation .* capturing\); leave it out$"):
        captured([torch.ones(2)])


@pytest.mark.parametrize("name", ["train.py", "doctor.py"])
def test_without_a_gpu_it_is_refused(shards, tmp_path, name):
    options = [*TINY, "--cuda-graph", "--data", shards, "--out", tmp_path / "run"]
    done = script(f"pipeline/{name}", *options)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --cuda-graph needs an NVIDIA GPU, and there is none here; leave it out\n",
    )
