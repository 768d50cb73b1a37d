"""The benchmark of the step, on tiny networks: what it reports, and that it refuses what computes something else."""

import json
import os
import re
import signal
import sys
from functools import partial
from types import SimpleNamespace

import decoders
import pytest
from pictures import PHOTO, encode
from profiles import class_of, time_by_class, work_items
from running import ROOT, command
from torch.autograd import DeviceType
from workers import WorkerError, workers
from yardsticks import flop_of_a_pair

from zorse.config.schema import Networks

# A reference with the names of the known one, written plainly.
REFERENCE = """
from itertools import chain
from torch import nn, optim
from zorse.cyclegan.patchgan import Discriminator
from zorse.cyclegan.resnet import Generator

class Pool:
    def query(self, images):
        return images

class CycleGANModel:
    def __init__(self, opt):
        if (opt.netG, opt.ngf, opt.ndf) != ("resnet_2blocks", 4, 4):
            raise NotImplementedError(opt.netG)
        self.netG_A, self.netG_B = (Generator(opt.ngf, 2) for _ in range(2))
        self.netD_A, self.netD_B = (Discriminator(opt.ndf) for _ in range(2))
        self.fake_A_pool, self.fake_B_pool, self.opt = Pool(), Pool(), opt
        both = ((self.netG_A, self.netG_B), (self.netD_A, self.netD_B))
        parts = (chain(*(network.parameters() for network in pair)) for pair in both)
        self.optimizers = [optim.Adam(part, lr=opt.lr, betas=(opt.beta1, 0.999)) for part in parts]

    def set_input(self, input):
        self.a, self.b = input["A"], input["B"]

    def optimize_parameters(self):
        l1, a, b, weight = nn.L1Loss(), self.a, self.b, self.opt.lambda_A
        fake_b, fake_a = self.netG_A(a), self.netG_B(b)
        self.loss_G_A = (self.netD_A(fake_b) - 1).square().mean()
        self.loss_G_B = (self.netD_B(fake_a) - 1).square().mean()
        self.loss_cycle_A = l1(self.netG_B(fake_b), a) * weight * FACTOR
        self.loss_cycle_B = l1(self.netG_A(fake_a), b) * weight
        self.loss_idt_A = l1(self.netG_A(b), b) * weight * self.opt.lambda_identity
        self.loss_idt_B = l1(self.netG_B(a), a) * weight * self.opt.lambda_identity
        loss = self.loss_G_A + self.loss_G_B + self.loss_cycle_A + self.loss_cycle_B + self.loss_idt_A + self.loss_idt_B
        loss.backward()
        self.optimizers[0].step()
        self.optimizers[1].zero_grad()
        for name, network, real, fake in (("D_A", self.netD_A, b, fake_b), ("D_B", self.netD_B, a, fake_a)):
            loss = ((network(real) - 1).square().mean() + network(fake.detach()).square().mean()) / 2
            loss.backward()
            setattr(self, "loss_" + name, loss)
        self.optimizers[1].step()
        self.optimizers[0].zero_grad()
"""


def run(tmp_path, factor="1"):
    """benchmarks/step.py against such a reference."""
    models = tmp_path / "reference" / "models"
    models.mkdir(parents=True)
    (models / "__init__.py").touch()
    (models / "cycle_gan_model.py").write_text(REFERENCE.replace("FACTOR", factor))
    small = ["--sizes", "32", "--channels", "4", "--blocks", "2", "--rounds", "2", "--steps", "1"]
    out = ["--json", tmp_path / "found.json", "--profile", tmp_path / "traces"]
    return command([sys.executable, ROOT / "benchmarks" / "step.py", "--reference", models.parent, *small, *out])


def found(tmp_path):
    return json.loads((tmp_path / "found.json").read_text())


@pytest.mark.slow
def test_an_equal_reference_is_measured(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 120
    result = found(tmp_path)
    assert [(row["contender"], row["precision"], row["passed"]) for row in result["gate"]] == [
        ("ours eager", "fp64", True),
        ("reference", "fp32", None),
        ("ours eager", "fp32", True),
    ]
    exact = result["gate"][0]
    assert max(exact["losses"], exact["next"], exact["gradients"]) < 1e-12
    assert exact["cosine"] == pytest.approx(1)
    (case,) = result["cases"]
    assert (case["size"], case["batch"], case["precision"], result["threads"]) == (32, 1, "fp32", 1)
    reference, ours = case["contenders"]["reference"], case["contenders"]["ours eager"]
    assert reference["ratio"] == {"median": 1, "least": 1, "most": 1}
    assert ours["ratio"]["least"] <= ours["ratio"]["median"] <= ours["ratio"]["most"]
    for contender in (reference, ours):
        pairs, images = contender["pairs_per_second"], contender["images_per_second"]
        assert 0 < pairs["p10"] <= pairs["median"] <= pairs["p90"]
        assert images["median"] == pytest.approx(2 * pairs["median"])
        assert contender["flop_per_second"] == pytest.approx(pairs["median"] * case["flop_per_pair"])
        assert contender["share_of_product"] == pytest.approx(
            contender["flop_per_second"] / (sum(case["product_flop_per_second"]) / 2)
        )
        assert contender["operations_per_step"] > 100
        assert contender["ms_by_class"]["convolution, forward"] > 0
        assert len(contender["rounds"]) == 2
    assert len(list((tmp_path / "traces").iterdir())) == 2


@pytest.mark.slow
def test_nothing_is_measured_of_another_loss(tmp_path):
    done = run(tmp_path, factor="1.000001")
    assert done.returncode == 1
    assert "DIFFERS" in done.stdout
    assert done.stderr == "error: not the same step, see DIFFERS above; nothing was measured\n"
    result = found(tmp_path)
    assert result["gate"][0]["passed"] is False
    assert result["cases"] == []


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (partial(signal.raise_signal, signal.SIGKILL), "it was ended by SIGKILL in 'pop'; its last lines:"),
        (partial(os._exit, 3), "it ended with exit code 3 in 'pop'; its last lines:"),
        (dict, "KeyError: 'absent'"),
    ],
)
def test_the_end_of_a_worker_is_told(make, told):
    with workers({"it": make}) as running, pytest.raises(WorkerError, match=re.escape(told)):
        running["it"].ask("pop", "absent")


def test_a_worker_answers_and_what_it_prints_is_no_answer():
    with workers({"it": partial(__import__, "builtins")}) as running:
        assert [running["it"].ask("print", "hello"), running["it"].ask("len", "abc")] == [None, 3]


def test_a_folder_without_the_reference_is_told(tmp_path):
    done = command([sys.executable, ROOT / "benchmarks" / "step.py", "--reference", tmp_path])
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} has no models/cycle_gan_model.py; give the reference's folder\n"


def test_operations_of_the_papers_step():
    """Counted layer by layer at 256 pixels: 1.879 TFLOP."""
    assert flop_of_a_pair(Networks(generator_blocks=9), 256) == 1_879_217_012_736


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Optimizer.step#Adam.step > op:aten::copy_ |", "optimizer"),
        ("aten::conv2d > aten::convolution > op:aten::cudnn_convolution | sm90_xmma_dgrad", "convolution, forward"),
        ("ConvolutionBackward0 > op:aten::convolution_backward | sm90_xmma_wgrad", "convolution, weight gradient"),
        ("ConvolutionBackward0 > op:aten::convolution_backward | sm90_xmma_dgrad", "convolution, input gradient"),
        ("ConvolutionBackward0 > op:aten::convolution_backward | nchwToNhwcKernel", "copies and casts"),
        ("ConvolutionBackward0 > op:aten::convolution_backward |", "convolution, both gradients"),
        ("ReflectionPad2DBackward0 > op:aten::reflection_pad2d_backward | kernel", "padding"),
        ("| triton_poi_fused_convolution_relu_0", "fused by the compiler"),
        ("op:aten::add_ |", "other"),
    ],
)
def test_classes_of_work(path, name):
    assert class_of(path) == name


def test_time_on_a_gpu():
    """Kernels count once each: under the operator that launched them, or alone; annotations are no kernels."""

    def event(name, kind, us=0.0, kernels=(), note=False):
        launched = [SimpleNamespace(name=kernel, duration=time) for kernel, time in kernels]
        return SimpleNamespace(
            name=name,
            device_type=kind,
            device_time_total=us,
            kernels=launched,
            is_user_annotation=note,
            cpu_parent=None,
        )

    events = [
        event("aten::relu", DeviceType.CPU, kernels=[("elementwise", 3.0)]),
        event("aten::add", DeviceType.CPU, kernels=[("elementwise", 2.0)]),
        event("elementwise", DeviceType.CUDA, 3.0),
        event("elementwise", DeviceType.CUDA, 2.0),
        event("triton_poi_fused_relu", DeviceType.CUDA, 5.0),
        event("Optimizer.step#Adam.step", DeviceType.CUDA, 7.0, note=True),
    ]
    trace = SimpleNamespace(events=lambda: events)
    times = {name: us for name, us in time_by_class(trace).items() if us}
    assert times == {"activation": 3.0, "other": 2.0, "fused by the compiler": 5.0}
    assert work_items(trace) == 3


def test_decoders_count_what_is_wrong(monkeypatch, tmp_path, capsys):
    """Drawn files against what they show; a folder's against other decoders."""
    right = decoders.stored
    monkeypatch.setattr(decoders, "DECODERS", {})
    assert decoders.show_drawn(20, seed=0) == 0
    (tmp_path / "photo.png").write_bytes(encode(PHOTO, "PNG"))
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.setattr(decoders, "DECODERS", {"another": lambda data: right(data, "rgb")})
    assert decoders.show_folder(tmp_path) == 0
    monkeypatch.setattr(decoders, "stored", lambda data, mode: 1 - right(data, mode))
    assert decoders.show_folder(tmp_path) == 1
    assert decoders.show_drawn(20, seed=0) >= 40
    shown = capsys.readouterr().out
    assert "refused: notes.txt: not an image" in shown and "differs: photo.png" in shown
