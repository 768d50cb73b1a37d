"""JSON files held against types: what is taken, and what a mismatch is called."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

import pytest

from zorse.config.presets import PRESETS
from zorse.config.resolve import from_dict, resolve, to_json
from zorse.config.schema import Output
from zorse.errors import UserError
from zorse.typed_json import Count, Measured, Mismatch, convert, parse, read


class Point(TypedDict):
    x: Count
    label: NotRequired[str]


@dataclasses.dataclass(frozen=True)
class Shape:
    points: list[Point]
    kind: Literal["open", "closed"]
    file: Path | None = None


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (int, True, "all of it is true, and must be a whole number"),
        (int, 1.0, "is 1.0, and must be a whole number"),
        (int, 10**40, "must be a whole number"),
        (float, float("nan"), "is NaN, and must be a number"),
        (float, float("inf"), "is Infinity, and must be a number"),
        (float, 10**400, "must be a number"),
        (float, "1", 'is "1", and must be a number'),
        (bool, 1, "is 1, and must be true or false"),
        (str, "\ud800", "must be text"),
        (str, "a\0b", "must be text"),
        (dict[str, int], {"\ud800": 1}, "must be text"),
        (Annotated[int, range(3)], 3, "is 3, and must be in 0 to 2"),
        (Literal["1"], 1, "is 1, and must be one of 1"),
        (list[int], {"a": 1}, "is an object, and must be a list"),
        (tuple[int, ...], [1, "x"], '1 is "x", and must be a whole number'),
        (Shape, {"points": [], "kind": "round"}, 'kind is "round", and must be one of open, closed'),
        (Shape, {"points": [{"x": -1}], "kind": "open"}, "points.0.x is -1, and must be in 0 to"),
        (Shape, {"points": [{}], "kind": "open"}, "points.0.x is missing"),
        (Shape, {"points": []}, "kind is missing"),
        (Shape, {"points": [], "kind": "open", "size": 1}, "size is unknown to this version"),
        (Shape, {"points": [], "kind": "open", "file": 3}, "file is 3, and must be text"),
    ],
)
def test_a_mismatch_is_named(kind, value, words):
    with pytest.raises(Mismatch) as told:
        convert(value, kind)
    assert words in str(told.value) and "\n" not in str(told.value)


def test_what_fits_is_taken(tmp_path):
    record = {"points": [{"x": 1, "more": None}], "kind": "open", "file": "a/b"}
    assert convert(record, Shape) == Shape([{"x": 1, "more": None}], "open", Path("a/b"))
    assert convert([1, 2.5], list[float]) == [1, 2.5] and convert(float("inf"), Measured) == float("inf")
    name = os.fsdecode(b"not \xff UTF-8")
    assert convert(name, str) == name
    for preset in PRESETS.values():
        config = resolve(dataclasses.replace(preset, output=Output(out=tmp_path)), 1, "no")
        assert from_dict(json.loads(to_json(config))) == config


def test_an_option_that_defines_what_is_learned_is_not_guessed():
    values = json.loads(to_json(PRESETS["paper"]))
    del values["networks"]["norm"]
    with pytest.raises(Mismatch, match=r"networks\.norm is missing"):
        from_dict(values)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, b"\xff\xfe\xff"])
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        parse(text)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "loop", "zero", "."):
        with pytest.raises(UserError, match=r"cannot be read .*; restore it"):
            read(tmp_path / name, dict, "restore it")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none", dict, "restore it")
