"""Does a change of the code leave every result as it was? SHA-256 of all that the commands of a checkout make.

    python benchmarks/ruler.py measure CHECKOUT FILE --images horse2zebra    (minutes; once before, once after a change)
    python benchmarks/ruler.py compare BEFORE AFTER                           (exit code 1 if anything differs)

Both checkouts must be measured on one machine with the same libraries: other processors and versions round differently.
Only commands and files are used, under names that every version reads: it can measure any version since f2899e9.
What is hashed: shards of horse2zebra and of a folder of hostile files; a run of 200 pairs (losses, evaluations, sample
grids, all tensors of its checkpoint), the same run stopped and resumed, and the same on 2 ranks; translations of 60
images; of exports the .safetensors, .pth and configuration, of ONNX the initializers, operators and outputs, of .pt2
the weights and outputs.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MEASURES = ("flat", "response", "change")  # which version 0.1 had not
TIMES = ("pairs_per_second", "data_wait", "save_seconds")  # of stats.jsonl: what a clock says
NETWORKS = [
    "--crop-size", "64", "--load-size", "72", "--generator-channels", "16", "--generator-blocks", "3",
    "--discriminator-channels", "16", "--discriminator-layers", "2",
]  # fmt: skip
RUN = [
    *NETWORKS, "--workers", "1", "--batch", "2", "--ema-pairs", "50", "--status-every", "20", "--sample-every", "100",
    "--evaluate-every", "100", "--evaluate-images", "16", "--checkpoint-every", "100", "--lr-policy", "constant",
    "--epochs", "0.15", "--decay-epochs", "0", "--tracker", "none", "--seed", "3",
]  # fmt: skip


class Checkout:
    """A checkout with its own .venv, and a folder for what its commands make."""

    def __init__(self, root: Path, work: Path):
        self.root, self.work, self.python = root, work, root / ".venv" / "bin" / "python"

    def __call__(self, *command: str | Path, launcher: tuple = (), expect: int = 0) -> None:
        """Run pipeline/... or data_prep/... as a user does; what it prints is shown only if it fails."""
        script, *options = map(str, command)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
        line = [str(self.python), *map(str, launcher), str(self.root / script), *options]
        began = time.perf_counter()
        done = subprocess.run(line, cwd=self.work, env=environment, capture_output=True, text=True)
        print(f"{time.perf_counter() - began:7.1f} s  {script} {' '.join(options)[:90]}", flush=True)
        if done.returncode != expect:
            sys.exit(f"{' '.join(line)}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")

    def stopped(self, *command: str | Path, after: Path) -> None:
        """Run a training command and send it SIGTERM as soon as a checkpoint is there."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
        line = [str(self.python), str(self.root / command[0]), *map(str, command[1:])]
        with subprocess.Popen(line, cwd=self.work, env=environment, stdout=subprocess.DEVNULL) as running:
            while running.poll() is None and not after.exists():
                time.sleep(0.05)
            running.send_signal(signal.SIGTERM)
        if running.returncode != 128 + signal.SIGTERM:
            sys.exit(f"{' '.join(line)}\nwas not stopped by SIGTERM: {running.returncode}")


def measure(checkout: Path, images: Path) -> dict[str, str]:
    """{what: SHA-256}."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run = Checkout(checkout.resolve(), work)
        found = {}

        # Shards of real photographs, and of files of which many must be converted or refused.
        shard = ("data_prep/shard.py", "--workers", "2")
        run(*shard, "--source", images.resolve(), "--out", "shards")
        draw_hostile(work / "hostile")
        run(*shard, "--source", "hostile", "--out", "hostile-shards", "--max-corrupt", "0.9", "--lossless")
        run(*shard, "--source", "hostile", "--out", "grey-shards", "--max-corrupt", "0.9", "--mode-a", "grey16")
        for shards in ("shards", "hostile-shards", "grey-shards"):
            for path in sorted((work / shards).glob("*.*")):
                if path.suffix in (".tar", ".idx", ".crc"):
                    found[f"{shards}/{path.name}"] = sha256(path.read_bytes())
            manifest = json.loads((work / shards / "manifest.json").read_text())
            found[f"{shards} fingerprint"] = manifest["fingerprint"]

        # A run; the same stopped and resumed; the same on 2 ranks.
        train = ("pipeline/train.py", "--data", "shards", *RUN)
        ranks = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517")
        run(*train, "--out", "run")
        run.stopped(*train, "--out", "resumed", after=work / "resumed" / "checkpoints" / f"pairs-{100:012d}")
        run(*train, "--out", "resumed")
        run(*train, "--out", "ranks", launcher=ranks)
        for name in ("run", "resumed", "ranks"):
            found |= {f"{name}: {what}": digest for what, digest in of_run(work / name).items()}

        # Other networks and losses, briefly, as they are learned and as they translate.
        variants = {
            "no norm": ["--norm", "none", "--upsample", "resize", "--identity-weight", "0"],
            "u-net": ["--generator", "unet_residual", "--spectral-norm", "--dropout", "--adversarial", "hinge"],
            "batch norm": ["--norm", "batch", "--discriminator", "pixel", "--r1-weight", "1", "--history", "0"],
        }
        for name, options in variants.items():
            run(*train, *options, "--epochs", "0.015", "--features", "none", "--out", name)
            found |= {f"{name}: {what}": digest for what, digest in of_run(work / name).items()}

        # Translations of 60 photographs, whole and in bands of rows, and an evaluation of its own.
        some = work / "some"
        some.mkdir()
        for path in sorted((images / "testA").iterdir())[:60]:
            shutil.copy(path, some)
        run("pipeline/translate.py", "run", "some", "translated", "--direction", "a2b")
        run("pipeline/translate.py", "run", "some", "bands", "--direction", "b2a", "--tile", "64", "--weights", "raw")
        for folder in ("translated", "bands"):
            for path in sorted((work / folder).iterdir()):
                found[f"{folder}/{path.name}"] = of_array(pixels(path))
        run("pipeline/evaluate.py", "run", "--images", "24", "--out", "evaluation.json")
        found["evaluation"] = numbers(json.loads((work / "evaluation.json").read_text()))

        # Exports of every format.
        formats = ("safetensors", "onnx", "torch_export", "pth")
        run("pipeline/export.py", "run", "exported", "--direction", "a2b", "--formats", *formats)
        found |= of_export(work / "exported", run.python)
        return found


def of_run(out: Path) -> dict[str, str]:
    """Losses, evaluations, sample grids, and every tensor of the newest checkpoint."""
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    losses = [
        {name: value for name, value in line.items() if name not in TIMES and not name.startswith(MEASURES)}
        for line in lines
    ]
    found = {"losses": sha256(json.dumps(losses).encode())}
    found |= {f"eval/{path.name}": numbers(json.loads(path.read_text())) for path in sorted(out.glob("eval/*.json"))}
    found |= {f"samples/{path.name}": sha256(path.read_bytes()) for path in sorted(out.glob("samples/*.png"))}
    checkpoint = max((out / "checkpoints").glob("pairs-*"))
    for path in sorted(checkpoint.glob("*.safetensors")):
        found |= {f"{path.name} {name}": digest for name, digest in of_tensors(path).items()}
    return found | {"newest checkpoint": checkpoint.name}


def of_tensors(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as stored:
        return {name: of_array(stored.get_tensor(name)) for name in sorted(stored.keys())}


def pixels(path: Path) -> np.ndarray:
    """What a translation shows; the file also names what made it."""
    from PIL import Image

    return np.asarray(Image.open(path))


def of_array(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)} {sha256(np.ascontiguousarray(array).tobytes())}"


def of_export(folder: Path, python: Path) -> dict[str, str]:
    """In a process of the checkout's own Python, which has onnxruntime and torch."""
    here = Path(__file__).resolve()
    done = subprocess.run([python, here, "exported", folder], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def exported(folder: Path) -> dict[str, str]:
    import onnx
    import onnxruntime
    import torch
    from onnx.numpy_helper import to_array

    found = {f"export {name}": digest for name, digest in of_tensors(folder / "model.safetensors").items()}
    found["export config.json"] = sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.pth")):
        for name, tensor in torch.load(path, weights_only=True).items():
            found[f"{path.name} {name}"] = of_array(tensor.numpy())

    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 80)).astype(np.float32)
    graph = onnx.load(folder / "model.onnx").graph
    # By content, not by name: the exporter names what it folds after places in the source.
    found["onnx initializers"] = sha256("".join(sorted(of_array(to_array(t)) for t in graph.initializer)).encode())
    found["onnx operators"] = sha256(" ".join(node.op_type for node in graph.node).encode())
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    found["onnx outputs"] = of_array(session.run(None, {session.get_inputs()[0].name: pixels})[0])
    program = torch.export.load(folder / "model.pt2")
    weights = sorted(of_array(tensor.numpy()) for tensor in program.state_dict.values())
    found["pt2 weights"] = sha256("".join(weights).encode())
    found["pt2 outputs"] = of_array(program.module()(torch.from_numpy(pixels)).detach().numpy())
    return found


def numbers(record) -> str:
    """Of the numbers in a record at any depth, with their names; texts, which may be worded anew, are left out."""

    def walk(value, path=""):
        if isinstance(value, dict):
            for name in sorted(value):
                yield from walk(value[name], f"{path}/{name}")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from walk(item, f"{path}/{number}")
        elif isinstance(value, int | float):
            yield f"{path}={value!r}"

    return sha256("\n".join(walk(record)).encode())


def draw_hostile(folder: Path) -> None:
    """The kinds of files that scrapes, cameras, scanners and crashes leave in a folder of images."""
    from PIL import Image

    rng = np.random.default_rng(7)

    def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
        return np.asarray(coarse)[..., :channels]

    def save(name: str, image: Image.Image, **options) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)

    # In each split: photographs, what has to be converted, odd sizes and names.
    turned = Image.Exif()
    turned[0x0112] = 6
    for split in ("trainA", "trainB", "testA", "testB"):
        for number in range(6):
            save(f"{split}/plain-{number}.jpg", Image.fromarray(photo(48 + number, 70)), quality=90)
        save(f"{split}/wide.jpg", Image.fromarray(photo(40, 1600)))
        save(f"{split}/turned.jpg", Image.fromarray(photo(40, 60)), exif=turned)
        save(f"{split}/inks.jpg", Image.fromarray(photo(40, 60)).convert("CMYK"))
        save(f"{split}/grey.png", Image.fromarray(photo(40, 60)).convert("L"))
        save(f"{split}/alpha.png", Image.fromarray(photo(40, 60)).convert("RGBA"))
        save(f"{split}/palette.gif", Image.fromarray(photo(40, 60)).quantize(16))
        save(f"{split}/deep.png", Image.fromarray(rng.integers(0, 65536, (40, 60), dtype=np.uint16)))
        save(f"{split}/lossy.webp", Image.fromarray(photo(40, 60)))
        save(f"{split}/scan.tif", Image.fromarray(photo(40, 60)), compression="tiff_lzw")
        save(f"{split}/old.bmp", Image.fromarray(photo(40, 60)))
        save(f"{split}/UPPER CASE, ümlaut.JPG", Image.fromarray(photo(40, 60)))
        save(f"{split}/below/again.jpg", Image.fromarray(photo(50, 60)))
        save(f"{split}/tiny.png", Image.fromarray(photo(8, 60)))
        # Damaged, repeated and foreign files.
        buffer = io.BytesIO()
        Image.fromarray(photo(64, 64)).save(buffer, "JPEG")
        whole = buffer.getvalue()
        (folder / split / "half.jpg").write_bytes(whole[: len(whole) // 2])
        (folder / split / "twice.jpg").write_bytes((folder / split / "plain-0.jpg").read_bytes())
        (folder / split / "empty.jpg").write_bytes(b"")
        (folder / split / "page.jpg").write_bytes(b"<html>not found</html>")
        (folder / split / "notes.txt").write_text("no image")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compare(before: dict[str, str], after: dict[str, str]) -> int:
    different = [name for name in before | after if before.get(name) != after.get(name)]
    for name in different[:40]:
        print(f"differs: {name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}")
    print(f"{len(before | after) - len(different)} of {len(before | after)} equal")
    return int(bool(different))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("checkout", type=Path)
    one.add_argument("file", type=Path)
    one.add_argument("--images", type=Path, required=True)
    two = commands.add_parser("compare")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    commands.add_parser("exported").add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "compare":
        sys.exit(compare(*(json.loads(path.read_text()) for path in (options.before, options.after))))
    if options.command == "exported":
        print(json.dumps(exported(options.folder)))
    else:
        options.file.write_text(json.dumps(measure(options.checkout, options.images), indent=1) + "\n")


if __name__ == "__main__":
    main()
