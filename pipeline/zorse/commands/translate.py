"""Translate images with a trained CycleGAN: python pipeline/translate.py RUN_OR_CHECKPOINT IN OUT --direction a2b."""

from pathlib import Path

from zorse.config.command_line import options_of
from zorse.inference.image_files import NUMBERS, ending, find
from zorse.inference.options import Options, check, of_shards
from zorse.inference.places import check_writable, claim_all
from zorse.invocation import usage
from zorse.terminal import run_command


def run(options: Options) -> None:
    """Raises UserError for a mistake, a full disk, and at the end for images that failed."""
    check(options)
    *sources, out = options.paths
    if of_shards(sources[0]):
        check_writable(Path(out))
        from zorse.inference.translate_files import translate_shards

        return translate_shards(options)
    found = find(sources, out)
    if not any(ending(source) in NUMBERS for source, _ in found.pairs):  # of arrays, the model says what they become
        claim_all(found.pairs, options.also)
    check_writable(found.pairs[0][1].parent if len(found.pairs) == 1 else Path(out))
    # Only now, so that mistakes are reported without waiting for torch to load.
    from zorse.inference.translate_files import translate_files

    return translate_files(options, found)


def main() -> None:
    """Exit codes: 0 done; 1 shards that could not be reached for a while; 2 a mistake, a full disk, or images that
    failed; 130 Ctrl-C."""
    run_command(lambda: run(options_of(Options, usage("translate"))))
