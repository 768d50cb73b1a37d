"""Bytes of shards: a manifest that lies, disks that fail, samples that cannot be read."""

import errno
import json
import os
import random
import shutil
import threading
from functools import lru_cache

import numpy as np
import pytest
import torch
from streams import IMAGES, assert_same, stream

from zorse.config.schema import Images
from zorse.data import loader, local, order
from zorse.data.dataset import _warn_once, open_shards, whole_images
from zorse.data.loader import pair_batches
from zorse.data.local import File, Folder
from zorse.data.order import RankSlice
from zorse.data.quarantine import Quarantine
from zorse.data.samples import _checksums, _offsets
from zorse.errors import OneRankError, TransientError, UserError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No waits between attempts, and nothing kept of files that another test changed."""
    monkeypatch.setattr(local, "PAUSES", (0.0, 0.0, 0.0, 0.0))
    for kept in (_offsets, _checksums, local._open, _warn_once):
        kept.cache_clear()


@pytest.fixture
def copied(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def damage(path, split, samples, at=0, length=64):
    """Overwrite bytes of the images of some samples."""
    for sample in samples:
        shard, number = split.locate(sample)
        start, end, _ = split._ranges(shard, number)
        with (path / split.tars[shard].name).open("r+b") as tar:
            tar.seek(start + 512 + (at if at >= 0 else (end - start - 512) // 2))
            tar.write(bytes(length))


def one_line(path, call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


LIES = {
    "../x.tar": ("name", "../x.tar"),
    "/etc/x.tar": ("name", "/etc/x.tar"),
    "a name that is none": ("name", 7),
    "a NUL": ("name", "a\0.tar"),
    "negative samples": ("samples", -1),
    "no samples": ("samples", 0),
    "a half sample": ("samples", 1.5),
    "true samples": ("samples", True),
    "more samples than fit": ("samples", 10**12),
    "samples beyond any integer": ("samples", 10**400),
    "negative bytes": ("bytes", -512),
    "bytes beyond any disk": ("bytes", 2**63),
    "no bytes": ("bytes", None),
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused(copied, lie):
    field, value = LIES[lie]
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["splits"]["trainA"]["shards"][0][field] = value
    (copied / "manifest.json").write_text(json.dumps(manifest))
    one_line(copied, lambda: open_shards(copied))


@pytest.mark.fault(14)
def test_counts_that_disagree_are_refused(copied):
    text = (copied / "manifest.json").read_text()
    manifest = json.loads(text)
    manifest["splits"]["trainB"]["samples"] += 1
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert "trainB" in one_line(copied, lambda: open_shards(copied))
    manifest = json.loads(text)
    manifest["splits"]["trainB"]["samples"] -= 1
    manifest["splits"]["trainB"]["shards"][0]["samples"] -= 1
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert ".idx" in one_line(copied, lambda: open_shards(copied).check())
    (copied / "manifest.json").write_text("[" * 100_000)
    one_line(copied, lambda: open_shards(copied))


@pytest.mark.fault(14)
@pytest.mark.parametrize("how", ["backwards", "beyond the end", "one twice", "huge"])
def test_an_index_that_lies_is_refused(copied, how):
    index = sorted(copied.glob("trainA-*.idx"))[0]
    offsets = np.fromfile(index, dtype="<u8")
    if how == "backwards":
        offsets = offsets[::-1].copy()
    else:
        offsets[{"beyond the end": -1, "one twice": 1, "huge": 2}[how]] = {
            "beyond the end": offsets[-1] + 2**20, "one twice": offsets[0], "huge": 2**63 + 512,
        }[how]  # fmt: skip
    offsets.tofile(index)
    assert "index" in one_line(index, lambda: open_shards(copied).train_a.read(0))


@pytest.mark.fault(14)
def test_a_tar_that_changes_after_the_start_is_named_when_it_is_opened(copied):
    opened = open_shards(copied)
    opened.check()
    tar = copied / opened.train_a.tars[1].name
    tar.write_bytes(tar.read_bytes() + bytes(512))
    assert "bytes" in one_line(tar, lambda: opened.train_a.read(5))
    tar.unlink()
    local._open.cache_clear()
    assert "missing" in one_line(tar, lambda: opened.train_a.read(5))


@pytest.mark.fault(14)
def test_a_disk_that_fails_for_a_while_is_read_again(copied, monkeypatch):
    split = open_shards(copied).train_a
    expected = [split.read(i) for i in range(7)]
    real, failures = os.pread, [errno.EIO, errno.ESTALE, errno.ESTALE, errno.EIO]

    def pread(*arguments):
        if failures:
            raise OSError(failures.pop(), "the disk is away")
        return real(*arguments)

    monkeypatch.setattr(os, "pread", pread)
    assert [split.read(i) for i in range(7)] == expected and not failures
    failures += [errno.EIO] * 5
    with pytest.raises(TransientError, match=r"the disk is away.*5 times") as caught:
        split.read(0)
    assert split.tars[0].name in str(caught.value)
    failures[:] = [errno.EACCES]
    with pytest.raises(OneRankError, match="cannot be read") as caught:
        split.read(0)
    assert not isinstance(caught.value, TransientError)


def advised(monkeypatch):
    told = []
    monkeypatch.setattr(
        Folder, "prefetch", lambda self, file, start, end, block: told.append((file.name, start, end, block))
    )
    return told


def first_batch(opened, images=IMAGES):
    batches = pair_batches(opened, images, RankSlice(0, 1, 1, 1), seed=1, lanes=1, start=0, workers=0, pin=False)
    batch = next(batches)
    batches.close()
    return batch


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
def test_what_comes_is_asked_for_before_it_is_read(make_shards, monkeypatch):
    """128 pairs ahead: sample by sample, and where the order is by blocks, each block once and as a whole."""
    opened = open_shards(make_shards(40, 40, shard_size=20))
    told, jobs = advised(monkeypatch), []
    monkeypatch.setattr(loader.Prefetcher, "_work", lambda self: jobs.append(self))
    monkeypatch.setattr(loader.Prefetcher, "close", lambda self: [tell() for tell in self.jobs.queue if tell])
    first_batch(opened)
    assert len(told) == 80 and len(set(told)) == 80  # each sample once, though 129 pairs were looked at
    assert all((start, end) != block for _, start, end, block in told)
    told.clear()
    monkeypatch.setattr(order, "WHOLE_PERMUTATION_BELOW", 0)
    first_batch(opened)
    assert len(told) == 4 and all((start, end) == block for _, start, end, block in told)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
def test_advice_is_for_the_bytes_of_the_sample(shards, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: calls.append(arguments))
    split = open_shards(shards).train_a
    start, end, block = split._ranges(0, 2)
    split.prefetch(2, whole_block=False)
    split.prefetch(2, whole_block=True)
    assert [call[1:] for call in calls] == [
        (start, end - start, os.POSIX_FADV_WILLNEED), (block[0], block[1] - block[0], os.POSIX_FADV_WILLNEED),
    ]  # fmt: skip


def failures(opened, positions, **how):
    share = RankSlice(0, 1, 1, 1)
    options = {"seed": 1, "lanes": 1, "start": 0, "workers": 0, "pin": False} | how
    batches = pair_batches(opened, IMAGES, share, **options)
    found = [entry for _ in range(positions) for entry in next(batches)["failed"]]
    batches.close()
    return found


@pytest.mark.fault(15)
def test_another_sample_stands_in_for_one_that_cannot_be_read(copied):
    """Which one is a function of the position: for every split of the work, and wherever a run resumes."""
    intact = stream(open_shards(copied), 24, batch=4)
    opened = open_shards(copied)
    damage(copied, opened.train_a, [1, 6])
    damage(copied, opened.train_b, [4])
    whole = stream(opened, 24, batch=4)
    hit = {(entry["pair"], entry["domain"]) for entry in failures(opened, 24)}
    assert len({pair for pair, _ in hit}) > 5 and {domain for _, domain in hit} == {"a", "b"}
    for position, (a, b) in whole.items():
        assert torch.equal(a, intact[position][0]) == ((position, "a") not in hit)
        assert torch.equal(b, intact[position][1]) == ((position, "b") not in hit)
    for how in ({"world_size": 2}, {"world_size": 2, "workers": 2}, {"workers": 2}, {"accumulate": 2}):
        assert_same(whole, stream(opened, 24, batch=4, **how))
    later = stream(opened, 11, start=13, workers=2)
    single = stream(opened, 24)
    assert_same({position: single[position] for position in range(13, 24)}, later)
    assert failures(opened, 24) == failures(opened, 24, workers=2)
    entry = failures(opened, 24)[0]
    assert entry["shard"].startswith("train") and entry["sample"] in range(4) and entry["reason"]
    assert "0x" not in entry["reason"]


def test_substitutes_are_pinned(copied):
    """Another choice would silently change every run that met a damaged image."""
    opened = open_shards(copied)
    damage(copied, opened.train_a, [1, 3, 4, 6])
    found = [(entry["pair"], entry["shard"][7:13], entry["sample"]) for entry in failures(opened, 6)]
    assert found == GOLDEN


GOLDEN = [
    (0, "000000", 1), (0, "000001", 0), (0, "000001", 0), (0, "000001", 2), (1, "000000", 3), (3, "000001", 2),
]  # fmt: skip


@pytest.mark.fault(15)
def test_nothing_can_stand_in_where_all_is_damaged(copied):
    opened = open_shards(copied)
    damage(copied, opened.train_b, range(11))
    with pytest.raises(OneRankError, match="none of 9 samples") as caught:
        failures(opened, 1)
    assert str(caught.value).startswith("trainB: ")


@pytest.mark.fault(15)
def test_evaluations_take_the_next_image_and_say_so(copied, caplog):
    opened = open_shards(copied)
    second = whole_images(opened.test_a, [1], (36, 36))
    damage(copied, opened.test_a, [0])
    assert torch.equal(whole_images(opened.test_a, [0, 0], (36, 36)), torch.cat([second, second]))
    (told,) = caplog.messages
    assert told.startswith("warning: ") and opened.test_a.tars[0].name in told


@pytest.mark.fault(15)
def test_a_flipped_byte_is_found_by_its_checksum(copied):
    opened, checked = open_shards(copied), open_shards(copied, verify=True)
    checked.check()
    assert failures(checked, 24) == []
    damage(copied, opened.train_a, [3], at=-1, length=1)
    assert failures(opened, 24) == []  # it decodes, to another image
    found = failures(checked, 24)
    assert {(entry["domain"], entry["sample"]) for entry in found} == {("a", 3)}
    assert "checksum" in found[0]["reason"]
    victim = copied / f"{opened.train_b.tars[0].name}.crc"
    victim.unlink()
    assert "missing" in one_line(victim, lambda: open_shards(copied).check())


def batch(positions, *failed):
    entries = [
        {"pair": pair, "domain": domain, "shard": "s.tar", "sample": sample, "reason": "why"}
        for pair, domain, sample in failed
    ]
    return {"positions": positions, "failed": entries}


@pytest.fixture
def quarantine(tmp_path):
    def make(a, b):
        warnings = []
        made = Quarantine(tmp_path, 3, {"a": a, "b": b}, warnings.append)
        made.warnings = warnings
        return made

    return make


def test_each_sample_is_written_once_and_warned_of_once(quarantine, tmp_path):
    kept = quarantine(100, 100)
    kept.take(batch([0], (0, "a", 5)))
    kept.take(batch([1, 2], (2, "a", 5), (1, "b", 5), (1, "b", 6)))
    lines = [json.loads(line) for line in (tmp_path / "quarantine-00003.jsonl").read_text().splitlines()]
    assert [(line["pair"], line["domain"], line["sample"]) for line in lines] == [(0, "a", 5), (1, "b", 5), (1, "b", 6)]
    assert lines[0] == {"rank": 3, "pair": 0, "domain": "a", "shard": "s.tar", "sample": 5, "reason": "why"}
    assert len(kept.warnings) == 1 and "s.tar sample 5" in kept.warnings[0]


@pytest.mark.fault(15)
def test_ten_samples_are_borne_and_the_eleventh_stops_the_run(quarantine):
    kept = quarantine(100, 100)
    for pair in range(10):
        kept.take(batch([2 * pair], (2 * pair, "a", pair)))
        kept.take(batch([2 * pair + 1], (2 * pair + 1, "a", pair)))  # again the same one
        kept.take(batch([0]))
    with pytest.raises(OneRankError, match="11 samples of domain a") as caught:
        kept.take(batch([99], (99, "a", 99)))
    assert "quarantine-00003.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.fault(15)
def test_a_large_set_may_lose_a_thousandth_of_what_was_read(quarantine):
    """20000 reads bear 20 of 10^8; of a set of 15000 no more than 15, however often it is read."""
    for size, borne in ((10**8, 20), (15_000, 15)):
        kept = quarantine(size, 100)
        kept.take(batch(list(range(20_000))))
        for number in range(borne):
            kept.take(batch([number], (number, "a", number)))
        with pytest.raises(OneRankError, match=f"{borne + 1} samples"):
            kept.take(batch([0], (0, "a", borne)))


@pytest.mark.fault(15)
def test_a_hundred_in_a_row_stop_the_run(quarantine):
    kept = quarantine(100, 100)
    for pair in range(99):
        kept.take(batch([pair], (pair, "b", pair % 2)))
    kept.take(batch([99]))
    for pair in range(99):
        kept.take(batch([pair], (pair, "b", pair % 2)))
    with pytest.raises(OneRankError, match="100 samples of domain b in a row"):
        kept.take(batch([99], (99, "b", 0)))


def test_a_full_disk_does_not_stop_the_quarantine(quarantine, monkeypatch):
    kept = quarantine(100, 100)

    def full(path, text):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("zorse.data.quarantine.append", full)
    kept.take(batch([0], (0, "a", 5)))
    assert "no space" in kept.warnings[-1]


def test_a_domain_can_be_left_unmirrored(shards):
    opened = open_shards(shards)
    options = ({}, {"flip": False}, {"flip_a": "off"}, {"flip_b": "off"})
    runs = [stream_images(opened, Images(load_size=32, crop_size=32, **option)) for option in options]
    both, none, only_b, only_a = runs
    assert both[0] != none[0] and both[1] != none[1]
    assert only_b == (none[0], both[1]) and only_a == (both[0], none[1])


def stream_images(opened, images):
    batches = pair_batches(opened, images, RankSlice(0, 1, 1, 1), seed=1, lanes=1, start=0, workers=0, pin=False)
    pairs = [next(batches) for _ in range(12)]
    batches.close()
    return tuple([pair[domain].numpy().tobytes() for pair in pairs] for domain in ("a", "b"))


def test_files_are_looked_for_by_their_sizes(copied):
    store = Folder(copied)
    assert store.sizes(["manifest.json", "nothing"]) == {"manifest.json": (copied / "manifest.json").stat().st_size}
    with pytest.raises(OneRankError, match="nothing: is missing"):
        store.read(File("nothing", 3), 0, 3, (0, 3))


def test_threads_never_read_through_anothers_handle(tmp_path, monkeypatch):
    """Handles are opened by several threads at once, and closed when there are too many; their numbers come again."""
    store, files = Folder(tmp_path), [File(f"{number:03d}", 64) for number in range(64)]
    for file in files:
        (tmp_path / file.name).write_bytes(file.name.encode().ljust(64, b"."))
    monkeypatch.setattr(local, "_open", lru_cache(4)(local._open.__wrapped__))
    wrong = []

    def work(seed):
        order = random.Random(seed)
        for file in order.choices(files, k=3000):
            try:
                found = store.read(file, 0, 3, (0, 64))
            except Exception as error:
                found = str(error).encode()
            if found != file.name.encode():
                wrong.append((file.name, found))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
