"""--init-from: training that begins with the weights of another run, of an exported model, of junyanz's code."""

import pytest
import torch
from running import TINY, train
from runs import refused, run
from safetensors.torch import load_file

from zorse.checkpoints import format as checkpoint
from zorse.checkpoints.load import load_trained
from zorse.config.schema import Networks
from zorse.inference.translator import Translator
from zorse.interop.junyanz import FILES, to_their_weights

SHORT = ["--epochs", "0.2", "--decay-epochs", "0", "--keep", "9"]


def at_first(out):
    """The networks before the first step."""
    return load_file(checkpoint.list_checkpoints(out)[-1] / "networks.safetensors")


@pytest.fixture(scope="module")
def before(shards, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("before") / "run"
    run(shards, out, "--epochs", "0.5", "--decay-epochs", "0", "--seed", "5")
    return out


def test_a_run_begins_with_another_ones_weights_at_another_size(shards, before, tmp_path):
    bigger = ["--init-from", before, "--crop-size", "40", "--load-size", "48", "--ema-pairs", "5"]
    told = run(shards, tmp_path / "run", *SHORT, *bigger)
    last = load_file(checkpoint.latest_valid(before) / "networks.safetensors")
    begun = at_first(tmp_path / "run")
    assert begun.keys() == last.keys() and all(torch.equal(begun[name], last[name]) for name in last)
    average = load_file(checkpoint.list_checkpoints(tmp_path / "run")[-1] / "ema.safetensors")
    assert all(torch.equal(average[name], last[f"generators.{name}"]) for name in average)
    assert f"the weights are those of {before}" in told.stdout and "new ones" not in told.stdout
    # Going on, it goes on.
    longer = [*SHORT[2:], "--epochs", "0.4", "--allow-change", "epochs"]
    told = run(shards, tmp_path / "run", *longer, *bigger)
    assert "resuming" in told.stdout and "the weights are those" not in told.stdout
    assert "is not used: this run resumes its own checkpoint" in told.stdout


def test_discriminators_of_another_kind_begin_anew(shards, before, tmp_path):
    told = run(shards, tmp_path / "run", *SHORT, "--init-from", before, "--discriminator-channels", "6")
    last, begun = load_file(checkpoint.latest_valid(before) / "networks.safetensors"), at_first(tmp_path / "run")
    assert all(torch.equal(begun[name], last[name]) for name in last if name.startswith("generators."))
    new = "new ones: discriminators.of_a, discriminators.of_b, since nothing there fits them"
    assert new in told.stdout
    # A dry run says so, too, and that an existing run keeps its own.
    options = (*TINY, *SHORT, "--data", shards, "--init-from", before, "--discriminator-channels", "6", "--dry-run")
    for out, words in ((tmp_path / "new", new), (tmp_path / "run", "--init-from is not used")):
        told = train(*options, "--out", out)
        assert told.returncode == 0 and words in told.stdout, told.stdout + told.stderr


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["generators.a_to_b"], marks=pytest.mark.slow),
        pytest.param(["generators.b_to_a"], marks=pytest.mark.slow),
        list(FILES),
    ],
)
def test_weights_of_the_well_known_code(shards, before, tmp_path, names):
    trained, networks = load_trained(before), Networks(generator_channels=4, generator_blocks=1)
    tensors = load_file(checkpoint.latest_valid(before) / "networks.safetensors")
    (tmp_path / "theirs").mkdir()
    for name in names:
        file = tmp_path / "theirs" / f"latest_{FILES[name]}.pth"
        if name.startswith("generators."):
            torch.save(to_their_weights(trained.generators[name.removeprefix("generators.")], networks), file)
        else:  # under the same names, but for biases that do nothing
            part = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(name)}
            torch.save(part, file)
    told = run(shards, tmp_path / "run", *SHORT, "--init-from", tmp_path / "theirs")
    begun = at_first(tmp_path / "run")
    for name, tensor in tensors.items():
        assert torch.equal(begun[name], tensor) == (name.rsplit(".model", 1)[0] in names or not tensor.any()), name
    assert ("new ones" in told.stdout) == (len(names) < 4)


@pytest.mark.slow
def test_an_exported_model(shards, before, tmp_path):
    Translator(before, "b2a").save_pretrained(tmp_path / "model")
    told = run(shards, tmp_path / "run", *SHORT, "--init-from", tmp_path / "model")
    last, begun = load_file(checkpoint.latest_valid(before) / "networks.safetensors"), at_first(tmp_path / "run")
    of_b = [name for name in last if name.startswith("generators.b_to_a")]
    assert all(torch.equal(begun[name], last[name]) for name in of_b)
    assert "new ones: generators.a_to_b, discriminators.of_a, discriminators.of_b" in told.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--generator-channels", "6"), ("add --generator-channels 4",)),
        (("--init-from", "nowhere"), ("--init-from nowhere", "no checkpoint", ".pth")),
        (("--init-from", "nowhere", "--dry-run"), ("--init-from nowhere",)),
        (("--upsample", "resize", "--generator-blocks", "2"), ("add --generator-blocks 1 --upsample transposed",)),
    ],
)
def test_what_does_not_fit_in_one_line(shards, before, tmp_path, options, words):
    out = tmp_path / "run"
    refused(train(*TINY, "--data", shards, "--out", out, "--init-from", before, *options), *words)
    assert not (out / "checkpoints").exists()
