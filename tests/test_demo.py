"""`make demo` from drawing to translating, as the README promises it."""

import json
import shutil

import pytest
from conftest import ROOT, command
from PIL import Image


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_learns_in_five_minutes(tmp_path):
    demo = tmp_path / "demo"
    done = command(["make", "-C", ROOT, "demo", f"DEMO={demo}"], timeout=600, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "distance to real test images" in done.stdout and "Traceback" not in done.stderr
    evaluations = sorted((demo / "eval").glob("*.json"))
    first, last = (json.loads(evaluations[i].read_text()) for i in (0, -1))
    for way in ("a_to_b", "b_to_a"):
        for distance in ("kid_efficientnet_lite0", "fid_efficientnet_lite0", "sliced_wasserstein"):
            assert last[way][distance] < 0.6 * last["untranslated"][way][distance]
            assert last[way][distance] < 0.3 * first[way][distance]
    assert Image.open(demo / "samples" / f"{last['pairs']:09d}.png").width > 6 * 128
    assert len(list((demo / "translated").iterdir())) == 64
