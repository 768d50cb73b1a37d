"""docs/recipes: the two commands of each, as they are written, on drawings of the zoo."""

import re
import shlex

import drawn_sets
import numpy as np
import pytest
from prep_tools import done
from running import ROOT, TINY, script

# Each recipe, the drawn set that stands for its data, and whether the set's domains are the other way round.
RECIPES = {
    "stain-normalization": ("slides", "stains", False),
    "ct-and-mr": ("scans", "head", False),
    "sar-to-optical": ("scenes", "fields", True),
    "simulation-to-real": ("frames", "simulation", False),
    "microscopy": ("cells", "fluorescence", False),
}
IMAGES = {"--load-size", "--crop-size", "--load-width", "--crop-width"}
SHORT = ["--epochs", "0.5", "--decay-epochs", "0", "--sample-images", "1", "--tracker", "none"]


def commands(recipe):
    """The words of the commands in the recipe's first block."""
    text = (ROOT / "docs" / "recipes" / f"{recipe}.md").read_text()
    return [shlex.split(line) for line in re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1].splitlines()]


def test_every_recipe_is_tried_and_found_from_the_page_on_data():
    names = {path.stem for path in (ROOT / "docs" / "recipes").glob("*.md")}
    assert names == set(RECIPES)
    assert all(f"recipes/{name}.md" in (ROOT / "docs" / "data.md").read_text() for name in names)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_commands_of_a_recipe_run(recipe, tmp_path):
    folder, drawn, is_turned = RECIPES[recipe]
    drawn_sets.draw(drawn, tmp_path / folder, most=3)
    if is_turned:
        for kind in ("train", "test"):
            a, b = tmp_path / folder / f"{kind}A", tmp_path / folder / f"{kind}B"
            a.rename(tmp_path / "moved")
            b.rename(a)
            (tmp_path / "moved").rename(b)
    sharding, training = commands(recipe)
    assert sharding[:2] == ["zorse", "shard"] and training[:2] == ["zorse", "train"]
    told = done(script("data_prep/shard.py", *sharding[2:], "--workers", "1", cwd=tmp_path))
    assert "warning" not in told
    given = [] if IMAGES & set(training) else TINY[:4]
    done(script("pipeline/train.py", *TINY[4:], *SHORT, *given, *training[2:], cwd=tmp_path))
    # What comes back is in the units and the kind of its source.
    source = next((tmp_path / folder / "testA").iterdir())
    out = tmp_path / f"out{''.join(source.suffixes)}"
    run = tmp_path / "runs" / folder
    done(script("pipeline/translate.py", run, source, out, "--direction", "a2b", cwd=tmp_path))
    made = [path for path in tmp_path.iterdir() if path.name.startswith("out")]
    assert len(made) == 1 and made[0].stat().st_size > 1000
    if recipe == "ct-and-mr":
        import nibabel

        given, mr = nibabel.load(source), nibabel.load(out)
        assert mr.shape == given.shape and np.array_equal(mr.affine, given.affine) and mr.get_data_dtype() == np.float32
