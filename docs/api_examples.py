"""What every example of the API pages begins with: a small random model, images, rows, a folder."""

from pathlib import Path

import torch  # noqa: F401 - for the examples
from PIL import Image

from contrastive import build_model

SPEC = {
    "embed_dim": 8,
    "towers": {
        "image": {
            "encoder": {"type": "resnet", "width": 8, "image_size": 32},
            "head": {"type": "linear"},
        },
        "text": {
            "encoder": {"type": "cbow", "width": 16, "buckets": 256},
            "head": {"type": "linear"},
        },
    },
    "loss": {"type": "infonce"},
}
model = build_model(SPEC)
red, blue, green = (Image.new("RGB", (32, 32), color) for color in ("red", "blue", "green"))
rows = [
    {"image": image, "text": name, "id": i, "source": name, "label": name}
    for i, (name, image) in enumerate({"red": red, "blue": blue}.items())
]

photos = Path("photos")
photos.mkdir(exist_ok=True)
for name, image in {"red": red, "blue": blue, "green": green}.items():
    image.save(photos / f"{name}.png")
(photos / "captions.csv").write_text(
    "image,caption,split\n"
    "red.png,a red square,train\n"
    "blue.png,a blue square,train\n"
    "green.png,a green square,val\n"
)
