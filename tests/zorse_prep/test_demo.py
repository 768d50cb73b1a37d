"""`make demo` from drawing to translating, as the README promises it."""

import json
import shutil

import pytest
from PIL import Image
from running import ROOT, command

from zorse.errors import UserError
from zorse_prep import demo


def test_only_pictures_that_were_drawn_here_are_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "COUNTS", {"trainA": 2})
    for name, content in (("demo.json", '{"name": "a demo of something else"}'), ("trainA", "a file")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="holds other files; give another folder"):
            demo.draw_all(tmp_path)
        assert (tmp_path / name).read_text() == content
        (tmp_path / name).unlink()
    for seed in (0, 1):
        demo.draw_all(tmp_path, seed=seed)
        assert [Image.open(path).size for path in sorted((tmp_path / "trainA").iterdir())] == 2 * [(64, 64)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_learns_in_five_minutes(tmp_path):
    demo = tmp_path / "demo"
    done = command(["make", "-C", ROOT, "demo", f"DEMO={demo}"], timeout=900, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared with real ones" in done.stdout and "Traceback" not in done.stderr
    evaluations = sorted((demo / "eval").glob("*.json"))
    first, last = (json.loads(evaluations[i].read_text()) for i in (0, -1))
    for way in ("a_to_b", "b_to_a"):
        for distance, of_untranslated, of_first in (
            ("kid_efficientnet_lite0", 0.85, 0.6),
            ("fid_efficientnet_lite0", 0.9, 0.7),
            ("sliced_wasserstein", 0.6, 0.3),
        ):
            assert last[way][distance] < of_untranslated * last["untranslated"][way][distance]
            assert last[way][distance] < of_first * first[way][distance]
    assert Image.open(demo / "samples" / f"{last['pairs']:09d}.png").width > 6 * 128
    assert len(list((demo / "translated").iterdir())) == 64
