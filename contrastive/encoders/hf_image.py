"""Image models of transformers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch.nn.functional import pad

from contrastive.console import say
from contrastive.encoders.device_normalisation import BYTES, processor_bytes_first
from contrastive.encoders.hf_dual import ProcessImages
from contrastive.encoders.huggingface import load_half, load_image_processor, pool
from contrastive.encoders.image_encoder import ImageEncoder
from contrastive.encoders.image_transform import ImageTransform, SizesDifferError, mode_for
from contrastive.encoders.trial import measure_out_dim
from contrastive.encoders.weights import folder_config
from contrastive.errors import ContrastiveError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from contrastive.data.images import ImageSource
    from contrastive.encoders import HFImage
    from contrastive.encoders.device_normalisation import PixelNormalisation


class HFImageModule(ImageEncoder):
    """What the image processor gives, to pooled hidden states ``[B, F]``."""

    def __init__(self, spec: HFImage) -> None:
        """Load the model and its image processor."""
        super().__init__()
        self.who = f"hf-image {spec.name!r}"
        self.pooling = spec.pooling
        self.model, config, folder = load_half(spec, self.who)
        self.folder_config = folder_config(folder)
        self.needed = _required(self.model)
        processor = load_image_processor(folder, self.who)
        mode = mode_for(config, processor, self.who)
        steps = " ".join(processor.to_json_string().split())
        self.preprocess = ImageTransform(Process(processor, mode), steps)
        if self.needed - {"pixel_values"} or "pixel_values" not in processor.model_input_names:
            # with the places of patches, say
            self.preprocess = ProcessImages(processor, steps, mode)
        # Hiera's config has a mask_ratio, too, of which its encoder makes no use
        self.drops_patches = hasattr(getattr(self.model, "embeddings", None), "random_masking")
        if self.drops_patches and (ratio := self.model.config.mask_ratio):
            self.model.config.mask_ratio = 0.0
            say(f"{self.who}: its mask_ratio of {ratio} is set to 0, so that it sees all patches")
        self.reproducible = spec.pretrained
        self.out_dim = self._measured(Image.new("RGB", (64, 64)))

    def _measured(self, sample: Image.Image) -> int:
        """Return F, and let images keep their sizes if they have several."""
        try:
            width = measure_out_dim(self, sample, self.who)
            if isinstance(self.preprocess, ImageTransform):
                self.preprocess([sample, sample.resize((640, 480))])  # some round small sizes up
        except SizesDifferError as error:
            if not isinstance(self.preprocess, ImageTransform):
                self(**self.preprocess([sample]))  # tells what else is missing
                raise
            self.preprocess = PadImages(self.preprocess)
            try:
                width = measure_out_dim(self, sample, self.who)
            except SpecError as other:
                if other.__cause__ is None or isinstance(other.__cause__, ContrastiveError):
                    raise
                msg = f"{self.who}: {str(error).removeprefix(f'{self.who}: ')}"
                raise SpecError(msg) from other  # the model takes images of one size alone
            say(f"{self.who}: its images keep their shapes, so those of a size are run together")
        return width

    def encode(
        self, image: Tensor | None = None, size: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """Return features ``[B, F]``."""
        if image is None:
            return self._features(**inputs)
        if size is None:
            return self._features(pixel_values=image)
        shapes = cast("list[list[int]]", size.tolist())
        each = sorted({(h, w) for h, w in shapes})
        rows = [(size == size.new_tensor(shape)).all(1).nonzero().flatten() for shape in each]
        parts = [image[row, :, :h, :w] for row, (h, w) in zip(rows, each, strict=True)]
        features = torch.cat([self._features(pixel_values=part) for part in parts])
        return features[torch.cat(rows).argsort()]

    def _features(self, **inputs: Tensor) -> Tensor:
        if lacking := sorted(self.needed - {*inputs}):
            what = f"the model needs {', '.join(lacking)}, which its image processor does not give"
            msg = f"{self.who}: {what}; choose another model"
            raise SpecError(msg)
        if self.drops_patches:  # and shuffles them
            inputs["noise"] = _in_order(self.model, inputs["pixel_values"])
        mask = inputs.get("pixel_attention_mask")
        return pool(self.model(**inputs), mask, self.pooling, self.who, inputs.get("pixel_values"))


def _required(model: Any) -> set[str]:
    """Return the inputs that a model cannot do without."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}


def _in_order(model: Any, pixels_BCHW: Tensor) -> Tensor:
    """Return ``noise`` for a masked autoencoder, by which it sorts its patches."""
    patches = model.embeddings.patch_embeddings.num_patches
    return torch.arange(patches, device=pixels_BCHW.device).expand(len(pixels_BCHW), -1)


@dataclass(frozen=True)
class Process:
    """An image processor, one image at a time, so that none depends on its batch."""

    processor: Any
    mode: str = "RGB"
    changed: Mapping[str, bool] = field(default_factory=dict[str, bool], hash=False)
    """Which of its steps are done or not, unlike in its config."""

    def bytes_first(self) -> tuple[Process, PixelNormalisation] | None:
        """Return one that does not rescale and normalise, and what does, where these come last."""
        normalise = processor_bytes_first(self.processor)
        return None if normalise is None else (replace(self, changed=BYTES), normalise)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return ``[3, H, W]``, or ``[1, H, W]`` of a grey image.

        Raises:
            SpecError: it gives several images for one.
        """
        found = self.processor(images=image.convert(self.mode), return_tensors="pt", **self.changed)
        pixels: Tensor = found["pixel_values"]
        if pixels.ndim != 4:
            msg = (
                f"the processor makes {[*pixels.shape]} of an image: frames of a video, or tiles; "
                "choose a model that takes images one by one"
            )
            raise SpecError(msg)
        return pixels[0]


@dataclass(frozen=True)
class PadImages:
    """A ``preprocess`` that leaves images their sizes, and pads them to form a batch."""

    images: ImageTransform

    def __call__(self, samples: Sequence[ImageSource]) -> dict[str, Tensor]:
        """Return ``{"image": [B, 3, H, W], "size": [B, 2]}``, heights and widths before padding.

        Raises:
            BadSample: an image cannot be read.
        """
        images = self.images.each(samples)
        size = torch.tensor([image.shape[-2:] for image in images])
        height, width = cast("list[int]", size.amax(0).tolist())
        padded = [
            pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]))
            for image in images
        ]
        return {"image": torch.stack(padded), "size": size}
