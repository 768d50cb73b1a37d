"""Damaged copies of files: what disks, interrupted copies, editors and other programs do to them, by a seed."""

import json
import os
import shutil
import struct

ODD_VALUES = (
    None, True, -1, 0, 1.5, 2**70, 10**40, 1e300, float("nan"), float("inf"), "", "x", "\ud800", "a\0b", "../../x", [],
    {}, [[1]], {"a": {"b": []}},
)  # fmt: skip


def mutate(path, random):
    """Damage a file in place; returns what was done to it."""
    kinds = [*(ANY_FILE * 2), *PLACES]
    if path.suffix == ".json":
        kinds += 6 * [odd_value, odd_value, without_field, renamed_field, swapped_fields, other_encoding]
    elif path.suffix == ".jsonl":
        kinds += 8 * [odd_line]
    elif path.suffix == ".safetensors":
        kinds += 4 * [odd_header, odd_header, odd_number, swapped_tensors]
    kind = random.choice(kinds)
    kind(path, random)
    return kind.__name__.replace("_", " ")


# --- any file ---


def flipped_bit(path, random):
    data = bytearray(path.read_bytes())
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def cut(path, random):
    data = path.read_bytes()
    path.write_bytes(data[: random.randrange(len(data) or 1)])


def zeroed_range(path, random):
    data = bytearray(path.read_bytes())
    start = random.randrange(len(data) or 1)
    length = min(len(data) - start, random.choice((1, 8, 64, 512, 4096)))
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


def random_bytes(path, random):
    data = bytearray(path.read_bytes())
    start = random.randrange(min(len(data), random.choice((16, 4096))) or 1)
    noise = random.randbytes(random.choice((1, 4, 32)))
    data[start : start + len(noise)] = noise
    path.write_bytes(data)


def appended(path, random):
    path.write_bytes(path.read_bytes() + random.choice((b"\0" * 512, b"}\n", random.randbytes(64))))


def empty(path, random):
    path.write_bytes(b"")


ANY_FILE = [flipped_bit, cut, zeroed_range, random_bytes, appended, empty]


# --- something else in its place ---


def removed(path, random):
    path.unlink()


def a_directory(path, random):
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def a_link_to_itself(path, random):
    path.unlink()
    path.symlink_to(path.name)


def a_link_to_nothing(path, random):
    path.unlink()
    path.symlink_to("nothing")


def an_endless_device(path, random):
    path.unlink()
    path.symlink_to("/dev/zero")


def a_pipe(path, random):
    path.unlink()
    os.mkfifo(path)


PLACES = [removed, a_directory, a_link_to_itself, a_link_to_nothing, an_endless_device, a_pipe]


# --- JSON ---


def odd_value(path, random):
    edit(path, lambda record: put(record, random, random.choice(ODD_VALUES)))


def without_field(path, random):
    def drop(record):
        holder, key = place(record, random)
        del holder[key]

    edit(path, drop)


def renamed_field(path, random):
    def rename(record):
        holder, key = place(record, random)
        if isinstance(holder, dict):
            holder[f"{key}_"] = holder.pop(key)

    edit(path, rename)


def swapped_fields(path, random):
    def swap(record):
        (one, key), (other, name) = place(record, random), place(record, random)
        one[key], other[name] = json.loads(json.dumps([other[name], one[key]]))

    edit(path, swap)


def other_encoding(path, random):
    text = path.read_text()
    deep = "[" * 100_000
    path.write_bytes(
        random.choice((text.encode("utf-16"), b"\xff" + text.encode(), b"\xef\xbb\xbf" + text.encode(), deep.encode()))
    )


def odd_line(path, random):
    lines = path.read_text().splitlines()
    if not lines:
        return
    number = random.randrange(len(lines))
    record = json.loads(lines[number])
    if random.random() < 0.2:
        lines[number] = random.choice(("[1]", "null", "{", "3", '"x"', "[" * 100_000, "9" * 5000))
    elif random.random() < 0.5:
        put(record, random, random.choice(ODD_VALUES))
        lines[number] = json.dumps(record)
    else:
        holder, key = place(record, random)
        del holder[key]
        lines[number] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def put(record, random, value):
    holder, key = place(record, random)
    holder[key] = value


def place(record, random):
    """A place anywhere in a record, deep ones as often as others: what holds it, and its key there."""
    places = []

    def walk(holder):
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            places.append((holder, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(record)
    return random.choice(places)


# --- safetensors ---


def odd_header(path, random):
    header, data = parts(path)
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    name = random.choice(names)
    about = header[name]
    match random.randrange(7):
        case 0:
            header[f"{name}_"] = header.pop(name)
        case 1:
            about["dtype"] = random.choice(("I32", "U8", "C64", "F8_E4M3", "BF16", "F64", "NONE", 3))
        case 2:
            about["shape"] = [*about["shape"][::-1]]
        case 3:
            about["shape"] = random.choice(([], [2**40, 2**40], [-1], [0], "x", [1, *about["shape"]]))
        case 4:
            about["data_offsets"] = random.choice(([0, 2**62], [8, 0], [], "x", [-4, 4]))
        case 5:
            del header[name]
        case 6:
            header["model.extra.weight"] = about
    write_parts(path, header, data)


def odd_number(path, random):
    """A number that is none, is infinite, or is huge."""
    header, data = parts(path)
    if len(data) >= 4:
        at = random.randrange(len(data) // 4) * 4
        data[at : at + 4] = struct.pack("<f", random.choice((float("nan"), float("inf"), -float("inf"), 3e38)))
    write_parts(path, header, data)


def swapped_tensors(path, random):
    header, data = parts(path)
    names = [name for name in header if name != "__metadata__"]
    if len(names) > 1:
        one, other = random.sample(names, 2)
        header[one], header[other] = header[other], header[one]
    write_parts(path, header, data)


def parts(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def write_parts(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def vouch(checkpoint, describe):
    """Have the manifest of a checkpoint say what its files are now, where it can be read and they are files."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name, about in manifest.items():
            if (checkpoint / name).is_file():
                about |= describe(checkpoint / name)
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        pass


def copied(source, target):
    """A fresh copy of a folder, with its links."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, symlinks=True)
