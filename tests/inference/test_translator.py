"""The trained generator as a function of images, and what is saved of it."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from fake_hub import hub
from huggingface_hub import ModelCard
from PIL import Image
from running import command
from safetensors.torch import load_file, save_file

from zorse.checkpoints import format as checkpoint
from zorse.config.schema import Networks
from zorse.cyclegan.build import build_generator, init_weights
from zorse.cyclegan.resnet import Generator
from zorse.errors import UserError
from zorse.files import held
from zorse.inference import banded
from zorse.inference.translator import Translator, pad_for
from zorse.interop import saved_model
from zorse.interop.model_card import model_card


def noise(height, width, channels=3, seed=0):
    """uint8 [H, W, C]"""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def chw(image):
    return torch.from_numpy(image).permute(2, 0, 1)


def by_hand(run, image, way="a_to_b"):
    """What the newest checkpoint's averaged generator makes of uint8 [H, W, 3], a multiple of 4: floats [3, H, W]."""
    generator = Generator(4, 1)
    weights = load_file(checkpoint.latest_valid(run) / "ema.safetensors")
    generator.load_state_dict({name[7:]: tensor for name, tensor in weights.items() if name.startswith(way)})
    with torch.no_grad():
        return generator(chw(image)[None] / 127.5 - 1)[0]


def to_uint8(fake):
    return ((fake + 1) * 127.5).round().clamp(0, 255).byte()


def make(folder, modes=("rgb", "rgb"), scale=1.0, **changes):
    """A saved model with random weights, of images of other modes."""
    channels = {"rgb": 3, "grey": 1, "rgba": 4, "grey16": 1}
    generator = Generator(4, 1, *(channels[mode] for mode in modes))
    init_weights(generator, torch.Generator().manual_seed(1))
    for parameter in generator.parameters():
        parameter.data *= scale
    networks = Networks(generator_channels=4, generator_blocks=1, discriminator_channels=4, discriminator_layers=2)
    sizes = dataclasses.asdict(networks)
    provenance = {"data": "0", "pairs_seen": 1, "weights": "raw", "crop_size": 32, "evaluation": None}
    about = {"zorse": "0", "direction": "a2b", "networks": sizes, "dtype": "float32", "provenance": provenance}
    folder.mkdir(parents=True, exist_ok=True)
    about |= {"modes": dict(zip(("from", "to"), modes, strict=True))} | changes
    saved_model.write(folder, generator, about, None, "")
    return folder


def test_every_kind_of_image_is_what_the_generator_makes_of_it(trained):
    translator, image = Translator(trained), noise(32, 48)
    fake = by_hand(trained, image)
    expected = to_uint8(fake)
    made = translator(Image.fromarray(image))
    assert isinstance(made, Image.Image) and torch.equal(chw(np.array(made)), expected)
    made = translator(image)
    assert isinstance(made, np.ndarray) and made.dtype == np.uint8 and torch.equal(chw(made), expected)
    made = translator(chw(image))
    assert made.dtype == torch.uint8 and torch.equal(made, expected)
    made = translator(chw(image)[None].expand(2, -1, -1, -1))
    assert made.shape == (2, 3, 32, 48) and torch.equal(made[1], expected)
    for dtype in (torch.float32, torch.float64):
        made = translator((chw(image) / 127.5 - 1).to(dtype))
        assert made.dtype == dtype
        torch.testing.assert_close(made, fake.to(dtype), rtol=0, atol=1e-5)


def test_other_sizes_are_padded_with_their_edges(trained):
    image = noise(30, 45)
    padded = np.pad(image, ((0, 2), (0, 3), (0, 0)), mode="edge")
    assert torch.equal(Translator(trained)(chw(image)), to_uint8(by_hand(trained, padded))[:, :30, :45])


def test_a_list_keeps_its_order_and_shares_calls_by_size(trained):
    translator, calls = Translator(trained), []
    small, large = [noise(20, 24, seed=seed) for seed in range(3)], noise(40, 36)
    images = [small[0], Image.fromarray(large), chw(small[1]), torch.stack([chw(small[2]), chw(small[0])]) / 127.5 - 1]
    singly = [translator(image) for image in images]
    translator.generator.register_forward_hook(lambda network, given, made: calls.append(tuple(made.shape)))
    made = translator(images)
    assert sorted(calls) == [(1, 3, 40, 36), (4, 3, 20, 24)]
    assert [type(one) for one in made] == [np.ndarray, Image.Image, torch.Tensor, torch.Tensor]
    for one, other in zip(made, singly, strict=True):
        distance = np.abs(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64))
        assert np.shape(one) == np.shape(other) and distance.max() <= 1 and distance.mean() < 0.01
    assert translator([]) == []


def test_calls_stay_small(trained, monkeypatch):
    translator, calls = Translator(trained), []
    monkeypatch.setattr("zorse.inference.translator.AT_ONCE", 2 * 20 * 24)
    translator.generator.register_forward_hook(lambda network, given, made: calls.append(len(made)))
    assert translator(chw(noise(20, 24)).repeat(5, 1, 1, 1)).shape == (5, 3, 20, 24) and calls == [2, 2, 1]


def test_grey_deep_and_transparent_images(tmp_path):
    grey = Translator(make(tmp_path / "grey", ("grey", "grey")))
    image = noise(20, 24, 1)
    assert grey(image).shape == (20, 24, 1) and np.array_equal(grey(image[..., 0]), grey(image)[..., 0])
    assert grey(Image.fromarray(image[..., 0])).mode == "L" and grey(chw(image)).shape == (1, 20, 24)
    deep = Translator(make(tmp_path / "deep", ("grey16", "grey16")))
    wide = image[..., 0].astype(np.uint16) * 257
    of_array, of_tensor = deep(wide), deep(torch.from_numpy(wide.astype(np.int32))[None])
    assert of_array.dtype == np.uint16 and of_tensor.dtype == torch.int32
    assert np.array_equal(of_array, of_tensor[0].numpy())
    assert np.array_equal(np.asarray(deep(Image.fromarray(wide))), of_array)
    clear = Translator(make(tmp_path / "clear", ("rgb", "rgba")))
    assert clear(Image.fromarray(noise(20, 24))).mode == "RGBA" and clear(noise(20, 24)).shape == (20, 24, 4)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("x.jpg", "str"),
        (None, "NoneType"),
        ((noise(4, 4),), "tuple"),
        ([noise(4, 4), [noise(4, 4)]], "list"),
        (noise(4, 4) / 255, "float64 [4, 4, 3]"),
        (noise(4, 4).astype(np.uint16), "uint16 [4, 4, 3]"),
        (noise(4, 4, 2), "[4, 4, 2]"),
        (noise(4, 4)[:0], "[0, 4, 3]"),
        (Image.new("RGB", (0, 4)), "Image"),
        (torch.zeros(4, 4), "float32 [4, 4]"),
        (torch.zeros(1, 16, 16), "[1, 16, 16]"),
        (torch.zeros(16, 16, 3), "[16, 16, 3]"),
        (torch.zeros(0, 3, 16, 16), "[0, 3, 16, 16]"),
        (torch.zeros(3, 16, 16, dtype=torch.int32), "int32"),
        (torch.zeros(3, 16, 16, dtype=torch.bool), "bool"),
    ],
)
def test_what_is_no_image_is_told_in_one_sentence(trained, image, said):
    with pytest.raises(TypeError, match=r"^cannot translate .* or a list of these$") as error:
        Translator(trained)(image)
    assert said in str(error.value)


def test_directions_and_weights(trained):
    image = chw(noise(32, 32))

    def made(*options, **more):
        return Translator(*options, **more)(image)

    assert torch.equal(made(str(trained)), made(checkpoint.latest_valid(trained), "a2b", "cpu", "ema"))
    assert not torch.equal(made(trained), made(trained, weights="raw"))
    assert torch.equal(made(trained, "b2a"), to_uint8(by_hand(trained, noise(32, 32), "b_to_a")))
    for wrong in ({"direction": "a2c"}, {"precision": "float8"}):
        with pytest.raises(UserError, match=next(iter(wrong.values()))):
            Translator(trained, **wrong)


@pytest.mark.parametrize(("precision", "least", "most"), [("bfloat16", 1e-4, 0.05), ("float16", 1e-5, 0.01)])
def test_narrow_precisions_are_near(trained, precision, least, most):
    image = torch.rand(3, 32, 32) * 2 - 1
    exact, narrow = Translator(trained), Translator(trained, precision=precision)
    apart = (narrow(image) - exact(image)).abs().max()
    assert least < apart < most  # neither the same nor another image
    assert {p.dtype for p in narrow.generator.parameters()} == {torch.float32}


def test_what_float16_cannot_hold_is_told(tmp_path):
    huge = make(tmp_path / "huge", scale=3e6)
    assert Translator(huge)(torch.zeros(3, 16, 16).uniform_(-1, 1)).isfinite().all()
    with pytest.raises(UserError, match="bfloat16"):
        Translator(huge, precision="float16")(torch.zeros(3, 16, 16).uniform_(-1, 1))


def test_a_saved_model_is_the_same_and_says_what_it_is(trained, shards, tmp_path):
    translator = Translator(trained, "b2a")
    translator.generator = torch.compile(translator.generator)  # not called, so nothing is compiled
    translator.save_pretrained(tmp_path / "saved", model_card_kwargs={"license": "mit"})
    image = chw(noise(33, 20))
    again = Translator.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(image), Translator(trained, "b2a")(image))
    assert torch.equal(Translator(str(tmp_path / "saved"), device="cpu")(image), again(image))
    weights = load_file(checkpoint.latest_valid(trained) / "ema.safetensors")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {f"b_to_a.{name}" for name in stored} == {name for name in weights if name.startswith("b_to_a")}

    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    fingerprint = json.loads((shards / "manifest.json").read_text())["fingerprint"]
    evaluation = json.loads((trained / "eval" / "000000002.json").read_text())
    assert about["direction"] == "b2a" and about["modes"] == {"from": "rgb", "to": "rgb"}
    assert about["networks"] == json.loads((trained / "config.json").read_text())["networks"]
    expected = {"data": fingerprint, "pairs_seen": 2, "weights": "ema", "evaluation": evaluation}
    expected |= {"crop_size": 32, "crop_width": None}
    assert about["provenance"] == expected

    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert (
        card.data.library_name == "zorse" and card.data.pipeline_tag == "image-to-image" and card.data.license == "mit"
    )
    distance = [evaluation[kind]["b_to_a"]["sliced_wasserstein"] for kind in ("untranslated", "real")]
    row = [evaluation["b_to_a"]["sliced_wasserstein"], *distance]
    assert (
        fingerprint in card.text
        and f"| sliced_wasserstein | {' | '.join(f'{each:.4g}' for each in row)} |" in card.text
    )
    assert "](sample.png)" in card.text
    assert (tmp_path / "saved" / "sample.png").read_bytes() == (trained / "samples" / "000000002.png").read_bytes()


def test_a_checkpoint_of_no_run_has_no_picture_and_no_evaluation(trained, tmp_path):
    shutil.copytree(checkpoint.latest_valid(trained), tmp_path / "alone")
    Translator(tmp_path / "alone").save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "sample.png" not in card and "not evaluated" in card and not (tmp_path / "saved" / "sample.png").exists()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["provenance"]["evaluation"] is None


def test_a_directory_saved_to_again_tells_nothing_of_before(trained, tmp_path):
    Translator(trained).save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    Translator(make(tmp_path / "other")).save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    card = ModelCard.load(tmp_path / "README.md")
    assert files == {"model.safetensors", "config.json", "README.md"} and card.data.license is None
    assert "data, by fingerprint | `0`" in card.text


def test_what_records_say_is_no_markup_in_a_card(trained, tmp_path):
    Translator(trained, "b2a").save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    nasty = "[x](javascript:1) <img src=x> `y` |\n# z {{ 1 }}"
    about["provenance"]["data"] = about["provenance"]["weights"] = about["zorse"] = nasty
    about["provenance"]["evaluation"]["protocol"]["resize"] = nasty
    text = model_card(about, None).text
    assert text.count(r"\[x\](javascript:1) \<img src=x\> \`y\` \| # z {{ 1 }}") == 4
    assert "<img" not in text.replace(r"\<img", "") and "\n# z" not in text


@pytest.mark.parametrize("name", ["config.json", "README.md", "model.safetensors", "sample.png"])
def test_files_of_others_are_not_replaced(trained, tmp_path, name):
    """Not that of a run, either, or a picture beside a README."""
    content = (trained / "config.json").read_bytes() if name == "config.json" else b"library: another"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: already exists and holds something else; give another folder"):
        Translator(trained).save_pretrained(tmp_path)
    assert (tmp_path / name).read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_a_directory_that_was_written_in_part_is_written_again(trained, tmp_path, monkeypatch):
    """And is no model until then, as it is none of two at once."""
    Translator(trained, "a2b").save_pretrained(tmp_path)
    translator = Translator(trained, "b2a")
    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "write_durably", lambda path, content: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            translator.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="export it again"):
        Translator(tmp_path)
    with held(tmp_path, ""), pytest.raises(UserError, match="another process is writing a model there"):
        translator.save_pretrained(tmp_path)
    translator.save_pretrained(tmp_path)
    assert Translator(tmp_path).about["direction"] == "b2a"


PROTOCOL = {
    "images": {"a_to_b": 3, "b_to_a": 3}, "real_images": {"a_to_b": 3, "b_to_a": 3}, "real_split": "test",
    "resize": "none", "features": None,
}  # fmt: skip


def test_the_nearest_evaluation_and_picture(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "samples").mkdir()
    ways = {way: {} for way in ("a_to_b", "b_to_a")}
    for name, pairs, weights in (("1", 10, "raw"), ("2", 30, "raw"), ("z", 30, "ema"), ("3", 80, "ema")):
        record = {"pairs": pairs, "weights": weights, "protocol": PROTOCOL, "untranslated": ways, "real": ways, **ways}
        (tmp_path / "eval" / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "eval" / "half.json").write_text('{"pairs": 40')
    for name in ("000000000", "000000050", "strip"):
        (tmp_path / "samples" / f"{name}.png").touch()
    assert saved_model.nearest_evaluation(tmp_path, 40, "ema")["weights"] == "ema"
    assert saved_model.nearest_evaluation(tmp_path, 40, "raw") == saved_model.nearest_evaluation(tmp_path, 21, "raw")
    assert saved_model.nearest_evaluation(tmp_path, 60, "raw")["pairs"] == 80
    assert saved_model.nearest_sample(tmp_path, 40).name == "000000050.png"


def with_networks(saved, **changes):
    """Change what its config says of the networks."""
    about = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(about | {"networks": about["networks"] | changes}))


def with_weights(saved, change):
    """Change one of its weights."""
    weights = {name: weight.clone() for name, weight in load_file(saved / "model.safetensors").items()}
    weights["model.4.weight"] = change(weights["model.4.weight"])
    save_file(weights, saved / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda saved: (saved / "config.json").unlink(), "config.json"),
        (lambda saved: (saved / "model.safetensors").write_bytes(b"\x10"), "not a complete safetensors file"),
        (lambda saved: (saved / "config.json").write_text('{"direction": "a2b"}'), "dtype is missing"),
        (lambda saved: with_networks(saved, generator_channels=8), r"\[4, 3, 7, 7\], and \[8, 3, 7, 7\]"),
        (lambda saved: with_networks(saved, norm="group"), "networks.norm is .group., and must be one of instance, "),
        (lambda saved: with_networks(saved, upsample="bicubic"), "networks.upsample is .bicubic."),
        (lambda saved: with_networks(saved, generator="unet_512"), "networks.generator is .unet_512."),
        (lambda saved: with_networks(saved, generator_blocks=None), "networks.generator_blocks is null"),
        (lambda saved: with_networks(saved, generator_blocks=True), "networks.generator_blocks is true"),
        (lambda saved: with_networks(saved, generator_blocks=10**6), "generator-blocks 1000000: must be at most"),
        (lambda saved: with_networks(saved, generator_channels=4096), "these networks"),  # 20 GB
        (lambda saved: with_networks(saved, dropout=None), "networks.dropout is null"),
        (lambda saved: with_networks(saved, wings=2), "networks.wings is unknown"),
        (lambda saved: make(saved, modes=("rgb", "grey"), direction="a2c"), "direction is .a2c."),
        (lambda saved: with_weights(saved, lambda weight: weight * torch.nan), "infinite or NaN"),
        (lambda saved: with_weights(saved, lambda weight: weight.fill_(torch.inf)), "infinite or NaN"),
        (lambda saved: with_weights(saved, lambda weight: weight.to(torch.complex64)), "type C64, and not float32"),
        (lambda saved: with_weights(saved, lambda weight: weight.half()), "type F16, and not float32"),
        (lambda saved: with_weights(saved, lambda weight: weight.int()), "type I32, and not float32"),
    ],
)
def test_a_damaged_model_is_told_in_one_line(tmp_path, harm, word):
    harm(make(tmp_path / "saved"))
    for load in (Translator, Translator.from_pretrained):
        with pytest.raises(UserError, match=word) as error:
            load(tmp_path / "saved")
        assert "\n" not in str(error.value) and str(error.value).endswith("; export it again")


@pytest.mark.parametrize("text", [b'{"zorse": "0.1.0", "dir', b"", b"[]", b"null", b'{"a":"\xff\xfe"}', b"[" * 100_000])
def test_a_config_that_is_none_is_told_in_one_line(tmp_path, text):
    saved = make(tmp_path / "saved")
    (saved / "config.json").write_bytes(text)
    for load in (Translator, Translator.from_pretrained):
        with pytest.raises(UserError, match=r"config\.json: .*; export it again$"):
            load(saved)


def test_what_a_saved_model_has_not_is_refused(tmp_path):
    saved = make(tmp_path / "saved")
    for options, word in (({"direction": "b2a"}, "translates a2b"), ({"weights": "ema"}, "raw weights alone")):
        with pytest.raises(UserError, match=word):
            Translator(saved, **options)


PUSH = """
import sys
from zorse.inference.translator import Translator
print(Translator(sys.argv[1]).push_to_hub("user/model", model_card_kwargs={"license": "mit"}, token="secret"))
"""
FETCH = """
import torch
from zorse.inference.translator import Translator
again = Translator.from_pretrained("user/model", precision="float32", revision="main")
print(again(torch.linspace(-1, 1, 768).view(3, 16, 16))[:, 5, 5].tolist(), again.about["provenance"]["pairs_seen"])
try:
    Translator.from_pretrained("user/other")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_through_the_hub(trained, tmp_path):
    """Pushed and fetched by huggingface_hub's own code over HTTP; then, offline, from its cache."""
    with hub() as server:
        environment = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": server.url}
        done = command([sys.executable, "-c", PUSH + FETCH, trained], HF_HUB_OFFLINE="0", **environment)
    assert done.returncode == 0, done.stderr
    url, translated, refused = done.stdout.splitlines()
    assert server.created[0]["name"] == "model" and "/commit/" in url
    assert set(server.files) == {"README.md", "config.json", "model.safetensors", "sample.png"}
    assert b"license: mit" in server.files["README.md"]
    expected = Translator(trained)(torch.linspace(-1, 1, 768).view(3, 16, 16))[:, 5, 5].tolist()
    assert translated == f"{expected} 2"
    assert refused.startswith("UserError user/other: ") and "OWNER/NAME" in refused
    again = command([sys.executable, "-c", FETCH], HF_HUB_OFFLINE="1", **environment)
    assert again.stdout.splitlines()[:1] == [translated], again.stderr


@pytest.mark.parametrize("kind", [Image.fromarray, np.asarray, chw, lambda image: [image, Image.fromarray(image)]])
def test_bands_give_what_the_whole_image_gives(trained, kind, monkeypatch):
    image, whole = kind(noise(61, 50)), Translator(trained, tile="off")
    expected = whole(image)
    sizes = []
    for how in ({"tile": 8}, {"tile": "auto"}):
        if how["tile"] == "auto":
            monkeypatch.setattr(banded, "free_on", lambda device: 300_000)  # bytes: not enough for the whole
        translator = Translator(trained, **how)
        translator.generator.register_forward_hook(lambda *call: sizes.append(call[-1].shape))
        made = translator(image)
        assert type(made) is type(expected)
        for one, other in zip(
            *((each if isinstance(each, list) else [each]) for each in (made, expected)), strict=True
        ):
            apart = np.asarray(one).astype(int) - np.asarray(other)
            assert apart.shape == np.asarray(other).shape and abs(apart).max() <= 1
    assert not sizes  # the generator never saw the whole


def test_a_batch_that_does_not_fit_is_taken_one_by_one(trained, monkeypatch):
    pixels = torch.stack([chw(noise(32, 32, seed=seed)) for seed in range(3)])
    translator, sizes = Translator(trained), []
    expected = translator.translate_pixels(pixels)
    one = banded.memory_of_whole(translator.generator, 32, 32)
    monkeypatch.setattr(banded, "free_on", lambda device: 2 * one)
    translator.generator.register_forward_hook(lambda *call: sizes.append(len(call[-1])))
    assert (translator.translate_pixels(pixels).int() - expected).abs().max() <= 1
    assert sizes == [1, 1, 1]


def test_a_u_net_takes_no_bands(tmp_path):
    networks = Networks(generator="unet_128", generator_channels=1)
    make(tmp_path / "model", networks=dataclasses.asdict(networks))
    unet = build_generator(networks, 3, 3)
    init_weights(unet, torch.Generator())
    save_file(unet.state_dict(), tmp_path / "model" / "model.safetensors")
    image = noise(130, 100)
    assert Translator(tmp_path / "model")(image).shape == (130, 100, 3)
    with pytest.raises(UserError, match="whole image"):
        Translator(tmp_path / "model", tile=8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": "some"}, "tile some"),
        ({"tile": 0}, "tile 0"),
        ({"tile": True}, "tile True"),
        ({"weights": "best"}, "weights best"),
        ({"device": "quantum"}, "--device quantum"),
        ({"precision": "int8"}, "precision int8"),
    ],
)
def test_options_that_cannot_be_used(trained, options, words):
    with pytest.raises(UserError, match=words):
        Translator(trained, **options)


@pytest.mark.parametrize("change", [{"direction": "z"}, {"dtype": "zz"}, {"provenance": {"weights": "raw"}}])
def test_a_saved_model_that_is_not_whole(tmp_path, change):
    with pytest.raises(UserError, match="export it again"):
        Translator(changed(make(tmp_path / "model"), change))


def changed(model, change):
    about = json.loads((model / "config.json").read_text()) | change
    (model / "config.json").write_text(json.dumps(about))
    return model


def test_a_small_u_net_image_reaches_its_innermost_layer(tmp_path):
    """Enlarging one pixel and norming it would leave nothing of the layer."""
    networks = Networks(generator="unet_128", generator_channels=1, upsample="resize")
    generator = build_generator(networks, 3, 3)
    sizes = []
    generator.register_forward_pre_hook(lambda network, given: sizes.append(given[0].shape[2:]))
    generator(pad_for(generator, torch.zeros(1, 3, 40, 300)))
    assert sizes == [(256, 384)]
