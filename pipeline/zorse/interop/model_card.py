"""The model card of an exported generator: what it does, how it is used, what it was trained on, how good it is."""

import re

from huggingface_hub import ModelCard, ModelCardData

from zorse.config.schema import OF_GENERATORS, Networks
from zorse.directions import Direction
from zorse_prep.format import Arrays, Mode, in_range

OF_IMAGES = """from PIL import Image
from zorse import Translator

translator = Translator.from_pretrained("FOLDER_OR_HUB_ID")
translator(Image.open("in.jpg")).save("out.png")"""
OF_ARRAYS = """import numpy as np
from zorse import Translator

translator = Translator.from_pretrained("FOLDER_OR_HUB_ID")
np.save("out.npy", translator(np.load("in.npy")))  # [C, H, W], in the units below"""
TEMPLATE = """---
{{ card_data }}
---

# A CycleGAN that translates {{ source }} to {{ target }}

One generator of a CycleGAN ([Zhu et al. 2017](https://arxiv.org/abs/1703.10593)), {{ made }} on unpaired images
of two domains, a and b. From an image of domain {{ source }} it makes one of domain {{ target }}, of the same size.
{% if sample %}
![Test images, their translations, and these translated back]({{ sample }})
{% endif %}
## Use

With Zorse installed:

```python
{{ example }}
```

## Training

| | |
|---|---|
{% for name, value in training.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
## Evaluation
{% if distances %}
- At {{ evaluation.pairs }} pairs, with the {{ evaluation.weights }} weights; lower is better, but for psnr, ssim
  and cycle_psnr
- {{ protocol.images[direction] }} test images of domain {{ source }}, compared with
  {{ protocol.real_images[direction] }} real ones of domain {{ target }} ({{ protocol.real_split }})
- Size: {{ protocol.resize }}
- Features: {{ protocol.features or "none" }}

| | translated | untranslated | real images |
|---|---|---|---|
{% for metric, values in distances.items() -%}
| {{ metric }} | {{ values | join(" | ") }} |
{% endfor %}
{%- else %}
It was not evaluated.
{% endif %}"""


def model_card(about: dict, sample: str | None, license: str | None = None) -> ModelCard:
    """about: see saved_model.py. sample: name of a picture beside the card. license: its identifier on the hub."""
    direction = Direction.of(about["direction"])
    trained, networks = about["provenance"], Networks(**about["networks"])
    # What the hub indexes.
    data = ModelCardData(
        library_name="zorse",
        pipeline_tag="image-to-image",
        tags=["cyclegan", "unpaired-image-translation", "pytorch"],
        license=license,
    )
    # What the template shows: the training, and the evaluation nearest to these weights.
    evaluation = trained["evaluation"]
    generator = {name: getattr(networks, name) for name in OF_GENERATORS}
    training = {
        "direction": direction.option,
        "images": text_alone(" to ".join(in_range(about["modes"][end]) for end in ("from", "to"))),
        **_channels(about["modes"]),
        "data, by fingerprint": f"`{text_alone(trained['data'])}`" if trained["data"] else "unknown",
        "length": f"{trained['pairs_seen']} pairs of images" if trained["pairs_seen"] is not None else "unknown",
        "crops": crops(trained),
        "weights": text_alone(f"{trained['weights']}, stored as {about['dtype']}"),
        "generator": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in generator.items() if value),
        "version": text_alone(f"zorse {about['zorse']}"),
    }
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        source=direction.source,
        target=direction.target,
        direction=direction,
        made="trained by Zorse"
        if trained["data"]
        else "with weights of junyanz's pytorch-CycleGAN-and-pix2pix, trained",
        sample=sample,
        example=OF_ARRAYS if any(isinstance(mode, Arrays) for mode in about["modes"].values()) else OF_IMAGES,
        training=training,
        evaluation=evaluation,
        protocol=evaluation and _plain(evaluation["protocol"]),
        distances=evaluation and _distances(evaluation, direction),
    )


def _channels(modes: dict[str, Mode]) -> dict[str, str]:
    """The names and ranges of channels, where images are arrays."""
    found = {}
    for end, mode in modes.items():
        if isinstance(mode, Arrays):
            each = zip(mode.channels, mode.low, mode.high, strict=True)
            found[f"channels {end}"] = text_alone(", ".join(f"{name}: {low:g} to {high:g}" for name, low, high in each))
    return found


def text_alone(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def crops(trained: dict) -> str:
    """The size of the training crops, for people."""
    height, width = trained["crop_size"], trained.get("crop_width")
    return "unknown" if height is None else f"{width} x {height} pixels" if width else f"{height} pixels a side"


def _plain(protocol: dict) -> dict:
    return {name: text_alone(value) if isinstance(value, str) else value for name, value in protocol.items()}


def _distances(evaluation: dict, direction: Direction) -> dict[str, list[str]]:
    """The values of each metric for translated, untranslated and real images."""
    columns = [evaluation[direction], evaluation["untranslated"][direction], evaluation["real"][direction]]
    metrics = [metric for metric in evaluation[direction] if not metric.endswith("_std")]
    values = {metric: [column.get(metric) for column in columns] for metric in metrics}
    return {
        text_alone(metric): ["" if value is None else f"{value:.4g}" for value in row] for metric, row in values.items()
    }
