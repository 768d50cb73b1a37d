"""Zorse's data preparation: two folders or tables of images in, WebDataset shards and a manifest out."""


class PrepError(Exception):
    """A mistake in the input or the options: one line for the user which names the fix."""

    exit_code = 2


class TooManyCorrupt(PrepError):
    """More images are unusable than `--max-corrupt` allows."""

    exit_code = 3
