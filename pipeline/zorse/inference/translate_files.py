"""Images through the generators: read ahead in threads, equal sizes in one batch, written behind the computation."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from zorse.data.dataset import open_shards
from zorse.data.samples import CorruptSample, Split
from zorse.directions import Direction
from zorse.errors import UserError
from zorse.inference.image_files import Found
from zorse.inference.items import Item, Loaded, load_item, write
from zorse.inference.options import Options
from zorse.inference.places import Places, check_replaceable, claim_all, output_files
from zorse.inference.summary import Done, Tally
from zorse.inference.translator import Translator, usable, with_newest
from zorse.progress_bars import parts_shown, progress

THREADS = 4  # that read and write
DIRECTIONS = tuple(direction.option for direction in Direction)


def translate_files(options: Options, found: Found) -> None:
    """Translate image files. Raises UserError, at the end where images failed."""
    translators = build(options)
    modes = translators[options.direction].modes
    places = claim_all(found.pairs, options.also, modes)
    todo, tally = found.pairs, Tally({options.direction: len(found.pairs)}, found.left_out)
    if options.skip_existing:
        todo = [pair for pair in todo if not places.there(str(pair[0]), pair[1], options.also, modes)]
        tally.skipped = tally.done[options.direction] = len(found.pairs) - len(todo)

    for _, target in todo:
        check_replaceable(output_files(target, options.also, modes).values())

    def read(source: Path, target: Path) -> tuple[bytes, Path]:
        return source.read_bytes(), target

    items = [Item(options.direction, str(source), partial(read, source, target)) for source, target in todo]
    translate_all(options, translators, items, places, tally)
    out = Path(options.paths[-1])
    if len(found.pairs) == 1:  # the file that was written; transparency may have changed its name
        names = [output_files(found.pairs[0][1], (), modes, alpha)[""] for alpha in (True, False)]
        out = next(name for name in names if name in places.owners)
    tally.print_summary(out)


def translate_shards(options: Options) -> None:
    """Translate a split of shards, or two. Raises UserError, at the end where images failed."""
    source, out = options.paths
    shards = open_shards(source)
    shards.check()
    chosen, directions = options.split or "test", DIRECTIONS if options.direction == "both" else (options.direction,)
    splits = {direction: getattr(shards, f"{chosen}_{direction[0]}") for direction in directions}
    if missing := [direction[0] for direction, split in splits.items() if split is None]:
        raise UserError(f"{source}: has no test images of domain {' and '.join(missing)}; give --split train")
    translators = build(options)
    tally = Tally({direction: len(split) for direction, split in splits.items()})
    translate_all(options, translators, items_of(options, splits), Places(), tally)
    tally.print_summary(Path(out))


def items_of(options: Options, splits: dict[str, Split]) -> Iterator[Item]:
    """The samples of splits by direction, named as they are stored."""

    def read(split: Split, sample: int, folder: Path) -> tuple[bytes, Path]:
        name, data = split.read_with_name(sample)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise CorruptSample(f"its name, {name}, leads out of the folder")
        return data, folder / path

    for direction, split in splits.items():
        folder = Path(options.paths[-1], direction if options.direction == "both" else "")
        for sample in range(len(split)):
            shard, at = split.locate(sample)
            yield Item(direction, f"{split.tars[shard].name} sample {at}", partial(read, split, sample, folder), True)


def build(options: Options) -> dict[str, Translator]:
    """The translators that are needed, by direction, all of one checkpoint."""
    device = usable(options.device)
    directions = DIRECTIONS if options.direction == "both" or "cycle" in options.also else (options.direction,)
    tile = int(options.tile) if options.tile.isdecimal() else options.tile
    common = {"weights": options.weights, "precision": options.precision, "tile": tile}

    def load(model: Path) -> tuple[Path, dict[str, Translator]]:
        return model, {direction: Translator(model, direction, device, **common) for direction in directions}

    model, translators = with_newest(options.model, load)
    weights = next(iter(translators.values())).about["provenance"]["weights"]
    print(f"{model}, {weights} weights, {options.precision} on {device}", flush=True)
    return translators


def translate_all(
    options: Options, translators: dict[str, Translator], items: Iterable[Item], places: Places, tally: Tally
) -> None:
    """Translate and write all items, counting in `tally`. Raises UserError if the disk is full.

    KeyboardInterrupt is raised again with a line on what was done.
    """
    pool, writing, before, out = ThreadPoolExecutor(THREADS), deque(), tally.done.copy(), Path(options.paths[-1])
    bars = progress("translating", tally.totals, before) if tally.total > 1 else parts_shown("bands")
    try:
        with warnings.catch_warnings(), bars as show:
            if tally.total == 1:
                for translator in translators.values():
                    translator.progress = show
            warnings.simplefilter("ignore")  # PIL warns of odd metadata

            def report(done: Done) -> None:
                tally.add(done)
                if tally.total > 1:
                    show(tally.done - before, 0)

            # Decoding, computing and encoding overlap: images come from threads in batches of one size, and are
            # written by threads, a bounded number at a time.
            load = partial(load_item, options, translators, places)
            for group in by_size(
                claim_outputs(in_threads(pool, load, items, options.batch), places, report), options.batch
            ):
                made = translate_group(group, translators, options.also)
                for loaded, results in zip(group, made, strict=True):
                    if isinstance(results, Done):
                        report(results)
                    else:
                        writing.append(pool.submit(write, loaded, results, translators[loaded.item.direction].modes))
                while writing and (writing[0].done() or len(writing) > THREADS + options.batch):
                    report(writing.popleft().result())
            while writing:
                report(writing.popleft().result())
    except (KeyboardInterrupt, OSError) as error:
        # Count what was written before the interruption, and say how to continue.
        pool.shutdown(cancel_futures=True)
        for future in writing:
            if not future.cancelled() and not future.exception():
                tally.add(future.result())
        tally.list_failed(out)
        line = f"{tally.line(out)}; rerun the same command with --skip-existing to continue"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped: {line}") from None
        raise UserError(f"{error.filename or out}: {error.strerror or error}; {line} when that is fixed") from None
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    """function(item) for each, in order, computed in threads, THREADS + ahead of them before they are asked for."""
    items, waiting = iter(items), deque[Future]()
    while True:
        waiting.extend(pool.submit(function, item) for item in islice(items, THREADS + ahead - len(waiting)))
        if not waiting:
            return
        yield waiting.popleft().result()


def claim_outputs(loaded: Iterable[Loaded | Done], places: Places, report: Callable[[Done], None]) -> Iterator[Loaded]:
    """Claim the output files of each image, and yield those to translate; the others are reported."""
    for one in loaded:
        try:
            if isinstance(one, Loaded):
                places.claim(one.item.where, one.outputs.values())
                check_replaceable(one.outputs.values())
        except UserError as error:
            one = one.item.result(failed=str(error))
        if isinstance(one, Done):
            report(one)
        else:
            yield one


def by_size(images: Iterable[Loaded], batch: int) -> Iterator[list[Loaded]]:
    """Images of one size and direction, up to `batch` of them; those that wait for more are 2 batches at most."""
    waiting: dict[tuple, list[Loaded]] = {}
    for image in images:
        kind = image.item.direction, image.pixels.shape[1:]
        group = waiting.setdefault(kind, [])
        group.append(image)
        if len(group) == batch:
            yield waiting.pop(kind)
        elif sum(map(len, waiting.values())) > 2 * batch:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def translate_group(group: list[Loaded], translators: dict[str, Translator], also: tuple[str, ...]) -> list:
    """Translate images of one size: each becomes {"": pixels [n, C, H, W], "cycle": ...}, or a failed Done."""
    direction, counts = group[0].item.direction, [len(one.pixels) for one in group]
    both = (translators[direction], translators.get(Direction.of(direction).reverse.option))

    def translated(translator: Translator, pixels: Tensor) -> Tensor:
        """At most as many at once as images of one slice would be."""
        return torch.cat([translator.translate_pixels(part) for part in pixels.split(len(group))])

    try:
        made = {"": translated(both[0], torch.cat([one.pixels for one in group]))}
        if "cycle" in also:
            made["cycle"] = translated(both[1], made[""])
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        height, width = group[0].pixels.shape[2:]
        reason = f"not enough memory for {len(group)} of {width} x {height} pixels at once; "
        fix = "give a smaller --batch" if len(group) > 1 else "give a number of rows as --tile, or --precision bfloat16"
        return [one.item.result(failed=reason + fix) for one in group]
    return [
        dict(zip(made, parts, strict=True)) for parts in zip(*(all.split(counts) for all in made.values()), strict=True)
    ]
