"""Test images of a run, for visitors of its page who have none at hand."""

from contextlib import suppress
from pathlib import Path, PurePosixPath

from zorse.checkpoints.load import with_checkpoint
from zorse.checkpoints.records import read_record
from zorse.data.dataset import open_shards
from zorse.data.samples import CorruptSample
from zorse.errors import UserError


def example_images(model: Path, most: int) -> dict[str, list[tuple[str, bytes]]]:
    """Names and bytes of at most so many test images of domain "a" and of "b".

    None at all where the model is no run whose shards still lie in a folder here, or these have no test images.
    """
    found = {"a": [], "b": []}
    if not most:
        return found
    with suppress(UserError, OSError):
        _, config = with_checkpoint(model, read_record)
        data = config.data.path
        if "://" in data:
            return found
        shards = open_shards(data)
        for domain, split in (("a", shards.test_a), ("b", shards.test_b)):
            for sample in range(min(most, len(split) if split else 0)):
                with suppress(CorruptSample):
                    name, content = split.read_with_name(sample)
                    found[domain].append((PurePosixPath(name).name, content))
    return found
