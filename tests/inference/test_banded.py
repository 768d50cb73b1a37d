"""Translation in bands: that it is the whole translation, and that its memory is that of a band."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from running import ROOT, command

from zorse.cyclegan.build import init_weights
from zorse.cyclegan.resnet import Generator
from zorse.data.pixels import to_network, to_pixels
from zorse.errors import UserError
from zorse.inference import banded, row_layers, row_stores
from zorse.inference.banded import bands_of, memory_of_whole, padded_size, rows_that_fit, translate_in_bands
from zorse.inference.row_stores import free_memory, open_stores
from zorse_prep.format import CHANNELS

GIB = 2**30
reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def network(channels=8, blocks=2, c_in=3, c_out=3, dtype=torch.float32):
    generator = Generator(channels, blocks, c_in, c_out).to(dtype)
    init_weights(generator, torch.Generator().manual_seed(0))
    return generator.requires_grad_(False)


def picture(height, width, c=3):
    """Noise whose tint and contrast change from top to bottom, as a photograph's do."""
    noise = torch.rand(c, height, width, generator=torch.Generator().manual_seed(height * width))
    slope = torch.linspace(0, 1, height).view(1, -1, 1)
    return ((noise * (0.2 + 0.8 * slope) + 0.5 * (1 - slope)) * 200).to(torch.uint8)


def whole(generator, pixels):
    """By Generator.forward, with the lower and right edges repeated up to what it takes."""
    height, width = pixels.shape[1:]
    more_rows, more_columns = (max(16, -(-size // 4) * 4) - size for size in (height, width))
    image = to_network(pixels[None], "cpu", next(generator.parameters()).dtype)
    return generator(F.pad(image, (0, more_columns, 0, more_rows), mode="replicate"))


def in_bands(generator, pixels, size, **options):
    with torch.no_grad():
        return torch.cat(list(bands_of(generator, pixels, size, **options)), 2)


# A last band of 4, 8 or 12 rows, of one row at a quarter of the size, a single band, more rows than the image has.
@pytest.mark.parametrize("size", [4, 8, 12, 20, 28, 64, 76, 1000])
@pytest.mark.parametrize("shape", [(80, 48), (64, 200), (77, 33), (16, 16)])
def test_bands_are_the_whole_exactly(shape, size):
    generator, pixels = network(dtype=torch.float64), picture(*shape)
    torch.testing.assert_close(in_bands(generator, pixels, size), whole(generator, pixels), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [4, 12])
@pytest.mark.parametrize("shape", [(1, 2), (1, 40), (3, 5), (7, 90), (17, 18), (50, 2)])
def test_a_few_pixels_are_enough(shape, size):
    generator, pixels = network(dtype=torch.float64), picture(*shape)
    found = in_bands(generator, pixels, size)
    assert found.shape[2:] == padded_size(*shape)
    torch.testing.assert_close(found, whole(generator, pixels), rtol=0, atol=1e-10)


@pytest.mark.parametrize("blocks", [0, 1, 9])
@pytest.mark.parametrize("channels", [(1, 4), (4, 1)])
def test_any_generator(blocks, channels):
    generator, pixels = network(4, blocks, *channels, dtype=torch.float64), picture(44, 36, channels[0])
    torch.testing.assert_close(in_bands(generator, pixels, 16), whole(generator, pixels), rtol=0, atol=1e-10)


@pytest.mark.parametrize("blocks", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"}, {"norm": "none"}, {"norm": "centred"}, {"resize": True}, {"skips": True},
        {"norm": "batch", "resize": True, "skips": True},
    ],
)  # fmt: skip
def test_other_norms_upsampling_and_skips(options, blocks):
    generator = Generator(4, blocks, **options).double()
    init_weights(generator, torch.Generator().manual_seed(0))
    for name, tensor in generator.requires_grad_(False).eval().state_dict().items():
        if "running" in name or name.endswith("bias"):
            tensor.copy_(torch.linspace(0.2, 0.7, len(tensor)))
    pixels, seen = picture(52, 36), []
    found = in_bands(generator, pixels, 16, progress=lambda done, total: seen.append((done, total)))
    torch.testing.assert_close(found, whole(generator, pixels), rtol=0, atol=1e-10)
    assert seen[-1][0] == seen[-1][1] == len(seen)


@pytest.mark.parametrize("shape", [(768, 1024), (1023, 765)])
def test_a_photograph_in_float32(shape):
    generator, pixels = network(blocks=9), picture(*shape)
    expected = whole(generator, pixels)
    assert expected.std() > 0.05
    torch.testing.assert_close(in_bands(generator, pixels, 100), expected, rtol=0, atol=1e-4)


def test_statistics_of_each_band_would_differ(monkeypatch):
    """What the tests above would find where each band is normed by itself, although its halo is right."""

    def normed_alone(x, moments, slope):
        return row_layers.Rows(x.height, lambda a, b: F.leaky_relu(F.instance_norm(x.read(a, b)), slope))

    generator, pixels = network(dtype=torch.float64), picture(80, 48)
    monkeypatch.setattr(banded, "normed", normed_alone)
    expected = whole(generator, pixels)
    torch.testing.assert_close(in_bands(generator, pixels, 80), expected, rtol=0, atol=1e-10)  # a single band
    assert (in_bands(generator, pixels, 40) - expected).abs().max() > 0.1


@pytest.mark.parametrize(("mode_in", "mode_out"), [("rgb", "rgb"), ("grey", "rgba"), ("grey16", "grey16")])
def test_pixels_of_every_mode(mode_in, mode_out):
    generator = network(8, 1, CHANNELS[mode_in], CHANNELS[mode_out])
    pixels = picture(45, 61, CHANNELS[mode_in])
    if mode_in == "grey16":
        pixels = pixels.int() * 257
    given = pixels.clone()
    found = translate_in_bands(generator, pixels, mode_out, 16)
    expected = to_pixels(whole(generator, pixels), mode_out)[0, :, :45, :61]
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert (found.int() - expected.int()).abs().max() <= 1  # a value that falls between two
    assert (found == expected).float().mean() > 0.99
    assert torch.equal(pixels, given)


@pytest.mark.parametrize("size", [12, 64])
def test_a_file_keeps_what_memory_keeps(size):
    generator, pixels = network(), picture(150, 70)
    results = [in_bands(generator, pixels, size, place=place) for place in ("device", "host", "file")]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("place", ["host", "file"])
def test_autocast(place):
    """bf16 is as far from float32 in bands as it is whole."""
    generator, pixels = network(16, 4), picture(96, 80)
    exact = whole(generator, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        plain, found = whole(generator, pixels), in_bands(generator, pixels, 20, place=place)
    assert found.dtype == torch.bfloat16
    error, usual = ((result - exact).square().mean().sqrt() for result in (found, plain))
    assert 0 < error < 1.5 * usual


def test_a_store_of_bf16_is_half_as_large(monkeypatch):
    sizes = []
    monkeypatch.setattr(row_stores, "reserve", lambda file, size: sizes.append(size))
    generator, pixels = network(), picture(32, 48)
    in_bands(generator, pixels, 16, place="file")
    with torch.autocast("cpu", torch.bfloat16):
        in_bands(generator, pixels, 16, place="file")
    assert sizes == [2 * 8 * 12 * 32 * 4, 2 * 8 * 12 * 32 * 2]


def test_moments_are_those_of_all_values():
    """Where the mean is far from zero and the bands differ, too; of bf16 in float32's precision."""
    x = torch.randn(1, 5, 40, 700, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1000
    x = (x + torch.arange(40).view(1, 1, -1, 1)).float()
    parts = [row_layers.moments_of(part) for part in x.split([1, 17, 22], 2)]
    narrow = (x - 1000).bfloat16()
    for found, values in (
        (row_layers.merged([row_layers.merged(parts[:2]), parts[2]]), x),
        (row_layers.moments_of(narrow), narrow),
    ):
        exact = values.double()[0].flatten(1)
        assert found.count == 28000
        torch.testing.assert_close(found.mean, exact.mean(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(found.squares / found.count, exact.var(1, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("given", "used"), [(1, 4), (5, 8), (16, 16)])
def test_rows_are_rounded_up(given, used):
    with torch.no_grad():
        found = [band.shape[2] for band in bands_of(network(4, 1), picture(40, 16), given)]
    assert found == [used] * (40 // used) + [40 % used] * (40 % used > 0)


def test_progress_goes_up_to_its_total():
    seen = []
    translate_in_bands(network(4, 3), picture(60, 20), "rgb", 16, progress=lambda *at: seen.append(at))
    assert seen == [(done, 4 * (6 + 2 * 3)) for done in range(1, 4 * 12 + 1)]


def test_a_full_folder_is_told_before_any_work(small_disk, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(small_disk))
    generator, pixels, seen = network(), picture(1000, 1000), []
    with pytest.raises(UserError, match=rf"^{small_disk}: .*0.016 GB.*No space left.*; .*set TMPDIR"):
        translate_in_bands(generator, pixels, "rgb", 64, place="file", progress=lambda *at: seen.append(at))
    assert not seen and not list(small_disk.iterdir())
    monkeypatch.setenv("TMPDIR", str(small_disk / "absent"))
    with pytest.raises(UserError, match=r"absent.*set TMPDIR"):
        translate_in_bands(generator, pixels, "rgb", 64, place="file")


@reads_proc
def test_a_killed_process_leaves_no_file(tmp_path):
    script = "\n".join(
        [
            "import sys, time, torch",
            "from zorse.inference.row_stores import open_stores",
            "with open_stores(2, (64, 64, 64), torch.float32, torch.device('cpu'), 'file') as (one, other):",
            "    other.write(0, torch.ones(1, 64, 64, 64))",
            "    assert other.read(63, 64).sum() == 64 * 64",
            "    print('written', flush=True)",
            "    time.sleep(60)",
        ]
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    how = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}
    with subprocess.Popen([sys.executable, "-c", script], **how) as process:
        assert process.stdout.readline() == "written\n"
        links = Path(f"/proc/{process.pid}/fd").iterdir()
        assert any(link.readlink().is_relative_to(tmp_path) for link in links)  # it is there that it was written
        process.kill()
    assert not list(tmp_path.iterdir())


PEAK = """
import torch
from pathlib import Path
from zorse.inference.banded import translate_in_bands
from zorse.cyclegan.resnet import Generator
from zorse.data.pixels import to_network, to_pixels

def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if name in line) / 1024

generator = Generator(16, 1).requires_grad_(False)
translate_in_bands(generator, torch.zeros(3, 64, 512, dtype=torch.uint8), "rgb", 32, place="file")
before = megabytes("VmRSS:")
for height in (256, 2048):
    pixels = torch.zeros(3, height, 512, dtype=torch.uint8)
    translate_in_bands(generator, pixels, "rgb", 32, place="file")
    print(megabytes("VmHWM:") - before)
to_pixels(generator(to_network(pixels[None], "cpu", torch.float32)))
print(megabytes("VmHWM:") - before)
"""


@reads_proc
def test_memory_is_that_of_a_band():
    """An image of 8 times the height takes no more than its pixels, which are read and written: 6 MB."""
    done = command([sys.executable, "-c", PEAK])
    assert done.returncode == 0, done.stderr
    low, high, whole = map(float, done.stdout.split())
    assert high < low + 6 + 8
    assert high < whole / 20


def test_as_many_rows_as_fit():
    generator = network(16, 1)
    need = memory_of_whole(generator, 2048, 2048)
    assert rows_that_fit(generator, 2048, 2048, 2 * need) is None
    found = [rows_that_fit(generator, 2048, 2048, free) for free in (need, need // 20, need // 30, 0)]
    assert found == sorted(found, reverse=True) and found[0] > found[1] > found[2] > found[3] == 4
    assert all(size % 4 == 0 for size in found)
    assert rows_that_fit(generator, 10, 10) is None  # asks the machine


def test_stores_go_where_there_is_room(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(row_stores, "free_memory", lambda: 10 * GIB)
    assert [row_stores.place_for(int(size * GIB), GIB, cpu) for size in (6, 7.5)] == ["host", "file"]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 9 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    assert [row_stores.place_for(int(size * GIB), GIB, gpu) for size in (2, 3.5, 9)] == ["device", "host", "file"]


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_what_the_narrowest_cgroup_leaves(tmp_path, version):
    assert free_memory(tmp_path) > 2**20  # no cgroups: the machine's
    base, of_files = tmp_path / "sys/fs/cgroup", "inactive_file"
    names = {"limit": "memory.max", "used": "memory.current"}
    if version == 1:
        base, of_files = base / "memory", "total_inactive_file"
        names = {"limit": "memory.limit_in_bytes", "used": "memory.usage_in_bytes"}
    (tmp_path / "proc/self").mkdir(parents=True)
    lines = "3:cpuset:/x\n2:cpu,memory:/job/step\n0::/\n" if version == 1 else "0::/job/step\n"
    (tmp_path / "proc/self/cgroup").write_text(lines)
    unlimited = "max" if version == 2 else "9223372036854771712"
    for folder, limit in ((base / "job", 5_000_000), (base / "job/step", unlimited)):
        folder.mkdir(parents=True)
        (folder / names["limit"]).write_text(f"{limit}\n")
        (folder / names["used"]).write_text("4500000\n")
        of_active = of_files.replace("inactive", "active")
        (folder / "memory.stat").write_text(f"anon 1\n{of_files} 300000\n{of_active} 200000\nshmem 7\n")
    assert free_memory(tmp_path) == 5_000_000 - 4_500_000 + 500_000


def test_where_a_store_is():
    shape, device = (4, 8, 3), torch.device("meta")  # a stand-in for a GPU
    kept = []
    for place in ("device", "host"):
        with open_stores(1, shape, torch.float32, device, place) as (store,):
            kept.append(store.kept.device.type)
            assert store.read(0, 2).device == device
    assert kept == ["meta", "cpu"]


@pytest.mark.slow
def test_the_benchmark():
    small = ["--size", "64", "48", "--channels", "4", "--blocks", "1", "--rounds", "2", "--threads", "1"]
    done = command([sys.executable, ROOT / "benchmarks" / "large.py", *small, "--tile", "off", "auto", "16"])
    assert done.returncode == 0, done.stderr
    told = [[part.strip() for part in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[:2] for row in told] == [["off", "whole"], ["auto", "whole"], ["16", "bands of 16 rows"]]
    differences = [float(row[-1]) for row in told]
    assert differences[:2] == [0, 0] and 0 < differences[2] < 1e-5
