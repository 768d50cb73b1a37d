"""Exported graphs, run by their own runtimes and held against the generator in PyTorch."""

import dataclasses
import json
import os
import subprocess
import sysconfig
import tempfile
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from running import ROOT, script
from safetensors.torch import load_file

from zorse.checkpoints.load import load_discriminators, load_trained
from zorse.config.schema import Networks
from zorse.cyclegan.build import build_generator, init_weights
from zorse.cyclegan.step import CycleGANStep
from zorse.errors import UserError
from zorse.files import temporary_for
from zorse.inference import export as module
from zorse.inference.export import Options, export
from zorse.inference.translator import Translator
from zorse.interop.graphs import Graph
from zorse.interop.saved_model import write
from zorse.training.init_from import load_initial_weights

SIZES = [(1, 16, 16), (2, 20, 48), (5, 64, 28)]  # none of those that an export checks or is traced with
FORMATS = ("safetensors", "onnx", "torch_export")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "all"
    return out, export(Options(trained, out, direction="b2a", formats=FORMATS, license="mit"))


def images(sizes=SIZES):
    random = torch.Generator().manual_seed(0)
    return [torch.rand(n, 3, height, width, generator=random) * 2 - 1 for n, height, width in sizes]


def run_onnx(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def metadata(out):
    """Of each of the three files: what it says of itself."""
    stored = {entry.key: json.loads(entry.value) for entry in onnx.load(out / "model.onnx").metadata_props}
    extra = {"config.json": ""}
    torch.export.load(out / "model.pt2", extra_files=extra)
    return json.loads((out / "config.json").read_text()), stored, json.loads(extra["config.json"])


def test_every_format_computes_what_the_generator_does(trained, exported):
    out, _ = exported
    generator = Translator(trained, "b2a").generator
    graph = torch.export.load(out / "model.pt2").module()
    for run in (run_onnx(out / "model.onnx"), graph, Translator(out).generator):
        for image in images():
            torch.testing.assert_close(run(image), generator(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"generator": "unet_128", "norm": "batch"},
        {"generator": "unet_residual", "upsample": "resize"},
        {"norm": "none"},
        {"norm": "centred"},
    ],
    ids=["unet", "residual", "none", "centred"],
)
def test_other_generators(tmp_path, options):
    networks = Networks(generator_channels=2, generator_blocks=1, **options)
    generator = build_generator(networks, 3, 3)
    init_weights(generator, torch.Generator().manual_seed(0))
    about = {"zorse": "0", "direction": "a2b", "networks": dataclasses.asdict(networks), "dtype": "float32"}
    of = {"data": "0", "pairs_seen": 1, "weights": "raw", "crop_size": 32, "evaluation": None}
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", generator, about | {"modes": {"from": "rgb", "to": "rgb"}, "provenance": of}, None, "")
    measured = export(Options(tmp_path / "model", tmp_path / "out", formats=("onnx", "torch_export")))
    assert {name: found["value"] < 1e-5 for name, found in measured.items()} == {"model.onnx": True, "model.pt2": True}
    multiple = generator.multiple
    run = run_onnx(tmp_path / "out" / "model.onnx")
    image = torch.rand(2, 3, 2 * multiple, 4 * max(8, multiple)) * 2 - 1
    torch.testing.assert_close(run(image), generator.eval()(image), rtol=0, atol=1e-5)


def test_weights_for_the_well_known_code(trained, tmp_path):
    """All four networks of a run, each computing what it did; they begin another run, too."""
    measured = export(Options(trained, tmp_path / "out", direction="b2a", formats=("pth",)))
    names = {f"latest_net_{name}.pth" for name in ("G_A", "G_B", "D_A", "D_B")}
    assert set(measured) == {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(each["value"] < 1e-6 for each in measured.values())
    stored = torch.load(tmp_path / "out" / "latest_net_G_B.pth", weights_only=True)
    assert "model.1.bias" in stored and "model.10.conv_block.5.bias" in stored  # which that code has
    (image,) = images(SIZES[:1])
    for way in ("a2b", "b2a"):
        ours, theirs = Translator(trained, way).generator, Translator(tmp_path / "out", way).generator
        assert torch.equal(ours(image), theirs(image))
    run = load_trained(trained)
    modes = {"a": "rgb", "b": "rgb"}
    model = CycleGANStep(run.config.networks, run.config.losses, seed=5)
    assert "new ones" not in load_initial_weights(tmp_path / "out", model, run.config.networks, modes)
    for of, network in load_discriminators(run).items():
        assert all(
            torch.equal(network.state_dict()[name], t) for name, t in model.discriminators[of].state_dict().items()
        )


def test_one_generator_for_the_well_known_code(trained, tmp_path):
    Translator(trained, "b2a").save_pretrained(tmp_path / "model")
    assert set(export(Options(tmp_path / "model", tmp_path / "out", formats=("pth",)))) == {"latest_net_G_B.pth"}
    with pytest.raises(UserError, match="give another direction"):
        Translator(tmp_path / "out" / "latest_net_G_B.pth", "a2b")


def test_each_file_says_what_it_is_and_how_near(exported):
    out, measured = exported
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "config.json", "README.md", "sample.png", "model.onnx", "model.pt2"
    }  # fmt: skip
    for about, file in zip(metadata(out), ("model.safetensors", "model.onnx", "model.pt2"), strict=True):
        assert about["direction"] == "b2a" and about["provenance"]["pairs_seen"] == 2
        assert about["largest_difference"]["value"] == measured[file]["value"] < 1e-4
        first, *others = about["largest_difference"]["sizes"]
        assert any(height != width for _, _, height, width in others) and any(one[0] != first[0] for one in others)
    for about in metadata(out)[1:]:
        assert "multiples of 4" in about["image"]


def test_graphs_hold_the_plain_network(exported):
    """The convolutions of the paper with their own weights, sizes left open, and nothing tied to the CPU."""
    out, _ = exported
    model, weights = onnx.load(out / "model.onnx"), load_file(out / "model.safetensors")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 6 and kinds.count("ConvTranspose") == 2  # of 1 block
    stored = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer]
    last = weights["model.18.weight"].numpy()
    assert any(each.shape == last.shape and np.array_equal(each, last) for each in stored)
    for value in (model.graph.input[0], model.graph.output[0]):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert dims == ["batch", 3, "height", "width"]
    program = torch.export.load(out / "model.pt2")
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("aten.conv2d.default") == 6 and not any(
        "cpu" in str(node.kwargs) for node in program.graph.nodes
    )


def contents(file):
    """The bytes of a file, and of what it holds if it is an archive."""
    yield file.name, file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                yield f"{file.name}/{name}", archive.read(name)


def test_no_file_names_a_path_of_this_machine(trained, tmp_path):
    """Who shares a model does not also tell where it was made."""
    export(Options(trained, tmp_path / "out", formats=(*FORMATS, "pth")))
    packages, temporary = sysconfig.get_path("purelib"), f"{tempfile.gettempdir()}/"
    private = [str(path).encode() for path in (ROOT, packages, trained, tmp_path, temporary)]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {".onnx", ".pt2", ".pth", ".safetensors"} <= {path.suffix for path in files}
    found = {
        (name, path, data[max(0, place - 100) : place + 100])
        for name, data in (part for file in files for part in contents(file))
        for path in private
        if (place := data.find(path)) >= 0
    }
    assert not found


@pytest.mark.parametrize(
    ("precision", "formats"), [("float16", FORMATS), ("bfloat16", ("safetensors", "torch_export"))]
)
def test_narrow_weights_and_computation(trained, tmp_path, precision, formats):
    measured = export(Options(trained, tmp_path / "out", formats=formats, precision=precision))
    generator, narrow = Translator(trained).generator, getattr(torch, precision)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {narrow}
    program = torch.export.load(tmp_path / "out" / "model.pt2")
    assert {tensor.dtype for tensor in program.state_dict.values()} == {narrow}
    runs = [program.module(), Translator(tmp_path / "out").generator]
    if "onnx" in formats:
        runs.append(run_onnx(tmp_path / "out" / "model.onnx"))
    for run in runs:
        made = run(images()[1])
        assert made.dtype == torch.float32
        assert 0 < (made - generator(images()[1])).abs().max() < module.TOLERANCE[precision]
    assert all(0 < each["value"] < module.TOLERANCE[precision] for each in measured.values())
    again = Translator(tmp_path / "out")
    again.save_pretrained(tmp_path / "again")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_statistics_stay_wide(trained, tmp_path):
    """Values whose squares float16 cannot hold are normalised all the same."""
    Translator(trained).save_pretrained(tmp_path / "large")
    translator = Translator(tmp_path / "large")
    with torch.no_grad():
        translator.generator.model["1"].weight *= 3e3 / translator.generator.model["1"].weight.abs().max()
    translator.save_pretrained(tmp_path / "large")
    measured = export(
        Options(tmp_path / "large", tmp_path / "out", formats=("onnx", "torch_export"), precision="float16")
    )
    assert all(each["value"] < module.TOLERANCE["float16"] for each in measured.values())


def spoil(monkeypatch, change):
    """Let what is traced compute something else than the generator."""
    forward = Graph.forward
    monkeypatch.setattr(Graph, "forward", lambda self, image: change(forward(self, image)))


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
@pytest.mark.parametrize(
    "change",
    [lambda made: made + 0.01, lambda made: made * torch.nan, lambda made: made[..., 1:], lambda made: made[:1]],
)
def test_drift_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch, format, change):
    spoil(monkeypatch, change)
    with pytest.raises(UserError, match=f"^{format}: ") as error:
        export(Options(trained, tmp_path / "out", formats=("safetensors", format)))
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_what_drifts_within_the_tolerance_is_kept_and_told(trained, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda made: made + 0.01)
    measured = export(Options(trained, tmp_path / "out", formats=("torch_export",), tolerance=0.02))
    assert measured["model.pt2"]["value"] == pytest.approx(0.01, rel=0.01)


def test_bfloat16_has_no_runtime_to_check_it_with(trained, tmp_path):
    with pytest.raises(UserError, match=r"^onnx: cannot be run here .*Conv") as error:
        export(Options(trained, tmp_path / "out", formats=("onnx",), precision="bfloat16"))
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_what_cannot_be_traced_is_told_in_one_line(trained, tmp_path, monkeypatch):
    spoil(monkeypatch, lambda made: made if made.max() > 0 else -made)
    with pytest.raises(UserError, match="cannot be traced") as error:
        export(Options(trained, tmp_path / "out", formats=("torch_export",)))
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="name at least one of safetensors, onnx, torch_export"):
        export(Options(trained, tmp_path / "out", formats=()))


def test_missing_packages_are_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"onnx and onnxruntime and onnxscript; run: pip install onnx onnxruntime onnxscript$"
    ):
        export(Options(trained, tmp_path / "out", formats=("onnx",)))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(exported, trained):
    before = {path: path.stat().st_mtime_ns for path in exported[0].iterdir()}
    with pytest.raises(UserError, match="already exists"):
        export(Options(trained, exported[0]))
    assert {path: path.stat().st_mtime_ns for path in exported[0].iterdir()} == before


def test_an_empty_folder_is_filled_where_it_is(trained, tmp_path):
    """It may be a disk of its own, or the only place that can be written."""
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    (killed := subprocess.Popen(["true"])).wait()
    left = out / temporary_for(out / "export").name.replace(f".{os.getpid()}-", f".{killed.pid}-")
    left.mkdir()
    export(Options(trained, out))
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "README.md", "sample.png"}
    assert out.stat().st_ino == before and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_exports_to_one_folder(trained, tmp_path, monkeypatch):
    def other_first(staging, out):
        out.mkdir()
        (out / "model.onnx").write_text("another's")
        put_in_place(staging, out)

    put_in_place = module.put_in_place
    monkeypatch.setattr(module, "put_in_place", other_first)
    with pytest.raises(UserError, match="another process wrote there; give another folder"):
        export(Options(trained, tmp_path / "out"))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/model.onnx"]


@pytest.mark.slow
def test_the_command(trained, tmp_path):
    cli = ["pipeline/export.py", trained]
    done = script(*cli, tmp_path / "new" / "out", "--formats", "safetensors", "torch_export")
    assert done.returncode == 0 and "model.pt2: differs" in done.stdout and "next: " in done.stdout, done.stderr
    done = script(*cli, tmp_path / "narrow", "--precision", "float16", "--tolerance", "0")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "--tolerance 0" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
