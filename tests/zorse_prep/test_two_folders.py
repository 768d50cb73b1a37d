"""--a and --b: a folder for each domain, test images held out of them, other layouts named with the fix."""

import json
import shlex

import pytest
from prep_tools import assert_refused, counts_of, done, make_folder, noisy_jpeg, prep, shard

from zorse_prep.hold_out import hold_out
from zorse_prep.items import Item, Source, none_dropped
from zorse_prep.sources import open_source


@pytest.fixture
def folders(tmp_path):
    return make_folder(tmp_path / "pets", {"horse": 60, "zebra": 30})


def names_of(out, split):
    return {json.loads(line)["name"] for file in (out / "plan").glob(f"{split}-*.jsonl") for line in file.open()}


def test_two_folders_become_a_data_set_with_test_images(folders, tmp_path):
    out = tmp_path / "out"
    told = done(shard("--a", folders / "horse", "--b", folders / "zebra", "--out", out))
    counts = counts_of(out)
    assert counts["trainA"] + counts["testA"] == 60 and counts["trainB"] + counts["testB"] == 30
    assert f"held out for testing: {counts['testA']} of 60 images of A and {counts['testB']} of 30 images of B" in told
    assert 8 <= counts["testA"] < 12 and 7 <= counts["testB"] < 9
    assert names_of(out, "trainA").isdisjoint(names_of(out, "testA"))
    again = done(shard("--a", folders / "horse", "--b", folders / "zebra", "--out", out))
    assert "4 of 4 shards existed already" in again
    other = ["--a", folders / "horse", "--b", folders / "zebra", "--out", out, "--test-share", "0.5"]
    assert_refused(shard(*other), "holds shards of other images or options", "--restart")


def test_given_test_images_are_taken_and_the_other_domain_s_held_out(folders, tmp_path):
    more = make_folder(tmp_path / "more", {"x": 4})
    out = tmp_path / "out"
    told = done(shard("--a", folders / "horse", "--b", folders / "zebra", "--test-a", more / "x", "--out", out))
    counts = counts_of(out)
    assert counts["trainA"] == 60 and counts["testA"] == 4 and counts["trainB"] + counts["testB"] == 30
    assert "of A" not in told.partition("for others")[0]


def test_none_are_held_out_where_none_are_wanted(folders, tmp_path):
    told = done(
        shard("--a", folders / "horse", "--b", folders / "zebra", "--out", tmp_path / "out", "--test-share", "0")
    )
    assert counts_of(tmp_path / "out") == {"trainA": 60, "trainB": 30}
    assert "no test images of A and B, so nothing will be evaluated; of 8 images or more, --test-share" in told


def test_a_source_of_training_images_alone_can_have_some_held_out(tmp_path):
    source = make_folder(tmp_path / "pets", {"trainA": 40, "trainB": 40})
    done(shard("--source", source, "--out", tmp_path / "out", "--test-share", "0.25"))
    counts = counts_of(tmp_path / "out")
    assert 7 < counts["testA"] < 20 and counts["trainA"] + counts["testA"] == 40
    whole = make_folder(tmp_path / "whole", {"trainA": 4, "trainB": 4, "testA": 1})
    assert_refused(shard("--source", whole, "--out", tmp_path / "no", "--test-share", "0.25"), "testA holds images")


def held_out(names, share=0.05, split="trainA"):
    source = Source("x", "folder", "x", None, "x", iter(Item(split, name, 1, "") for name in names), {})
    source.dropped[split] = none_dropped()
    found = list(hold_out(source, share).items)
    assert sorted(item.name for item in found) == sorted(names)
    assert source.held_out.total() == sum(item.split.startswith("test") for item in found)
    return {item.name for item in found if item.split == split.replace("train", "test")}


def test_what_is_held_out_stays_so_when_images_are_added():
    names = [f"{number}.jpg" for number in range(2000)]
    few, many = held_out(names[:500]), held_out(names)
    assert few == many & set(names[:500]) and 60 < len(many) < 140
    assert held_out(names, split="trainB") == many  # partners of one name go together


def test_of_few_images_enough_to_evaluate_are_held_out():
    for count in range(1, 60):
        found = len(held_out([f"{number}.png" for number in range(count)], 1e-9))
        assert found == (0 if count < 8 else min(8, count // 4))


def test_the_slices_of_a_patient_stay_together():
    names = [f"patient{patient}/{number}.dcm" for patient in range(40) for number in range(9)]
    patients = {name.partition("/")[0] for name in held_out(names, 0.2)}
    assert len(held_out(names, 0.2)) == 9 * len(patients) and 2 < len(patients) < 20
    photographs = held_out([name.replace(".dcm", ".jpg") for name in names], 0.2)
    assert len(photographs) != 9 * len({name.partition("/")[0] for name in photographs})


def test_a_link_s_own_name_names_the_data_set(folders, tmp_path):
    (tmp_path / "mine").symlink_to(make_folder(tmp_path / "other", {"trainA": 2, "trainB": 2}))
    assert open_source(None, tmp_path / "mine").name == "mine"
    (tmp_path / "pony").symlink_to(folders / "horse")
    both = {"trainA": tmp_path / "pony", "trainB": folders / "zebra"}
    assert open_source(None, None, folders=both).name == "pony2zebra"


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ({"A": 2, "B": 2}, "--a {}/A --b {}/B"),
        ({"horse": 2, "zebra": 2, ".cache": 1}, "--a {}/horse --b {}/zebra"),
        ({"train/A": 2, "train/B": 2}, "--a {}/train/A --b {}/train/B"),
        ({"train/A": 2, "train/B": 2, "val/A": 1}, "--a {}/train/A --b {}/train/B --test-a {}/val/A"),
        (
            {"cat/train": 2, "cat/test": 2, "dog/train": 2, "dog/test": 2},
            "--a {}/cat/train --b {}/dog/train --test-a {}/cat/test --test-b {}/dog/test",
        ),
    ],
    ids=["A, B", "names", "train/A", "val/A", "A/train"],
)
def test_another_layout_is_named_with_options_that_work(layout, options, tmp_path):
    root = make_folder(tmp_path / "two words", layout)
    result = shard("--source", root, "--out", tmp_path / "out")
    assert_refused(result, "has no folder trainA; in place of --source, give --a ")
    given = shlex.split(result.stderr.partition("give ")[2])
    assert given == [word.replace("{}", str(root)) for word in options.split()]
    done(shard(*given, "--out", tmp_path / "out"))


def test_what_is_no_two_domains_is_told(folders, tmp_path):
    (folders / "mule").mkdir()
    assert_refused(shard("--source", folders), "it has horse, mule, zebra; give --a DIR --b DIR")
    horse, zebra = folders / "horse", folders / "zebra"
    assert_refused(shard("--a", horse), "give both --a DIR and --b DIR")
    assert_refused(shard("--test-a", horse), "give both --a DIR and --b DIR")
    assert_refused(shard("--a", horse, "--b", tmp_path / "no"), "--b", "does not exist; give a folder of images")
    assert_refused(shard("--a", horse, "--b", horse / "0.jpg"), "is a file; archives and tables go to --source")
    assert_refused(shard("--a", folders, "--b", zebra), "--b", "lies in --a")
    assert_refused(shard("--a", horse, "--b", horse), "lies in --b")
    assert_refused(shard("--a", horse, "--b", zebra, "--source", folders), "leave out the name and --source")
    assert_refused(shard("--a", horse, "--b", zebra, "--test-share", "2"), "--test-share 2.0 is not a share")
    assert_refused(shard("--a", horse, "--b", folders / "mule"), "--b: the folder holds no images; give a folder")


def test_the_stages_take_two_folders_too(folders, tmp_path):
    out = tmp_path / "out"
    told = done(prep("plan", "--a", folders / "horse", "--b", folders / "zebra", "--out", out))
    assert "held out for testing" in told
    (folders / "horse" / "0.jpg").write_bytes(noisy_jpeg(9999))
    written = prep("write", out, "--workers", "1")
    assert written.returncode == 2 and "is no longer what the plan saw" in written.stderr
