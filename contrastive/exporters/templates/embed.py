"""Embeds texts and images by the ONNX files in this folder: what onnx.json says, carried out.

    from embed import Model

    model = Model("FOLDER")
    texts = model.embed("text", ["a red square", "a blue circle"])  # [2, D], of length 1
    images = model.embed("image", ["photo.jpg"])  # paths or PIL images
    scores = images @ texts.T

Needs numpy, Pillow, onnxruntime and, for texts of a tokenizer.json, tokenizers. It may be copied
and changed freely, and read as the recipe for another language.
"""

import json
import math
import re
import unicodedata
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


class Model:
    """The towers of a folder; int8=True takes the smaller files, where there are some."""

    def __init__(self, folder, int8=False):
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "onnx.json").read_text(encoding="utf-8"))
        self.file = "int8" if int8 else "file"
        self.loaded = {}

    def embed(self, modality, samples, batch_size=16):
        """Return embeddings [B, D] of length 1; images are paths or PIL images, texts str."""
        tower = self.about["towers"][modality]
        if modality not in self.loaded:
            self.loaded[modality] = self._load(tower)
        session, prepare = self.loaded[modality]
        samples = list(samples)
        result = np.zeros((len(samples), self.about["embed_dim"]), np.float32)
        for rows in self._batches(tower, samples, prepare, batch_size):
            inputs = prepare([samples[i] for i in rows])
            inputs = {name: inputs[name] for name in tower["inputs"]}
            result[rows] = session.run([tower["output"]], inputs)[0]
        return result

    def _load(self, tower):
        import onnxruntime

        place = str(self.folder / tower[self.file])
        session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
        return session, preparation(tower["preprocess"], self.folder)

    def _batches(self, tower, samples, prepare, batch_size):
        """Return which rows go together: in one batch, of one length, or each alone."""
        rows = list(range(len(samples)))
        if tower["batches"] == "of one row":
            return [[i] for i in rows]
        groups = [rows]
        if tower["batches"] == "of one length":
            of_length = {}
            for i in rows:
                length = int(prepare([samples[i]])["attention_mask"].sum())
                of_length.setdefault(length, []).append(i)
            groups = list(of_length.values())
        return [g[i : i + batch_size] for g in groups for i in range(0, len(g), batch_size)]


def preparation(about, folder):
    """Return the function from a list of samples to the arrays that a tower takes, by name."""
    kinds = {"image": Images, "tokenizer": Tokens, "utf8-bytes": Bytes, "hashed-words": Words}
    return kinds[about["kind"]](about, Path(folder))


class Images:
    """Images: upright, on white, resized, cropped, and (x * rescale - mean) / std by channel."""

    def __init__(self, about, folder):
        self.about = about

    def __call__(self, samples):
        images = [image if isinstance(image, Image.Image) else Image.open(image) for image in samples]
        return {self.about["input"]: np.stack([self.one(image) for image in images])}

    def one(self, image):
        about = self.about
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image)
            image = white
        image = image.convert("RGB").convert(about["mode"])
        if about["resize"]:
            image = resized(image, about["resize"])
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        if about["crop"]:
            pixels = cropped(pixels, about["crop"])
        numbers = [np.array(about[name], np.float32) for name in ("rescale", "mean", "std")]
        rescale, mean, std = numbers
        return ((pixels.astype(np.float32) * rescale - mean) / std).transpose(2, 0, 1)


def resized(image, about):
    """Resize to a height and a width, or the shorter side to a length, the other in proportion."""
    if "shortest_edge" in about:
        short, long = sorted(image.size)
        other = int(about["shortest_edge"] * long / short)
        size = (about["shortest_edge"], other) if image.width <= image.height else (other, about["shortest_edge"])
    else:
        size = (about["width"], about["height"])
    if size == image.size:
        return image
    if about["arithmetic"] == "pillow":
        return image.resize(size, getattr(Image.Resampling, about["filter"].upper()))
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    pixels = sixteen_bits(pixels, size, about["filter"])
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def sixteen_bits(pixels, size, kind):
    """Resample columns, then rows, with weights of 16 bits, rounding each time (as torch does)."""
    for axis, length in ((1, size[0]), (0, size[1])):
        if length == pixels.shape[axis]:
            continue
        weights = filter_weights(pixels.shape[axis], length, kind)
        bits = 0  # as many of the fraction as the largest weight leaves room for
        while bits < 22 and int(0.5 + weights.max() * 2 ** (bits + 1)) < 2**15:
            bits += 1
        whole = np.trunc(weights * 2**bits + np.where(weights < 0, -0.5, 0.5))
        # whole numbers below 2**53, of which float64 loses nothing, and is much faster
        sums = np.moveaxis(np.tensordot(whole, pixels.astype(np.float64), (1, axis)), 0, axis)
        pixels = np.clip((sums.astype(np.int64) + 2 ** (bits - 1)) >> bits, 0, 255).astype(np.uint8)
    return pixels


def filter_weights(old, new, kind):
    """Return [new, old] weights: the filter is stretched where an image shrinks (antialiasing)."""
    reach = {"bilinear": 1, "bicubic": 2, "lanczos": 3}[kind]
    scale = old / new
    stretch = max(scale, 1.0)
    weights = np.zeros((new, old))
    for i in range(new):
        centre = scale * (i + 0.5)
        first = max(int(centre - reach * stretch + 0.5), 0)
        last = min(int(centre + reach * stretch + 0.5), old)
        found = [FILTERS[kind]((j - centre + 0.5) / stretch) for j in range(first, last)]
        weights[i, first:last] = np.array(found) / sum(found)
    return weights


def bilinear(x):
    return max(1.0 - abs(x), 0.0)


def bicubic(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def lanczos(x):
    def sinc(y):
        return 1.0 if y == 0 else math.sin(math.pi * y) / (math.pi * y)

    return sinc(x) * sinc(x / 3) if abs(x) < 3 else 0.0


FILTERS = {"bilinear": bilinear, "bicubic": bicubic, "lanczos": lanczos}


def cropped(pixels, about):
    """Cut out the centre; black where the image is smaller. Half pixels: rounding says."""
    height, width = about["height"], about["width"]
    spare = [max(size - old, 0) for size, old in zip((height, width), pixels.shape)]
    around = [(n // 2, (n + 1) // 2) for n in spare]
    pixels = np.pad(pixels, [*around, (0, 0)])
    halves = [(old - size) / 2 for old, size in zip(pixels.shape, (height, width))]
    top, left = (round(x) if about["rounding"] == "half to even" else int(x) for x in halves)
    return pixels[top : top + height, left : left + width]


class Tokens:
    """Texts by a tokenizer.json, which says how they are cut and padded, too."""

    def __init__(self, about, folder):
        from tokenizers import Tokenizer

        self.about = about
        self.tokenizer = Tokenizer.from_file(str(folder / about["file"]))

    def __call__(self, samples):
        texts = [self.about["prompt"] + text for text in samples]
        special = self.about["special_tokens"]
        found = self.tokenizer.encode_batch(texts, add_special_tokens=special)
        parts = self.about["inputs"]
        return {name: np.array([getattr(x, of) for x in found], np.int64) for name, of in parts.items()}


class Bytes:
    """A start token, then offset + byte for each byte of UTF-8."""

    def __init__(self, about, folder):
        self.about = about

    def __call__(self, samples):
        about = self.about
        cut = [text.encode()[: about["max_bytes"]] for text in samples]
        rows = [[about["start"], *(about["offset"] + byte for byte in text)] for text in cut]
        return {about["input"]: padded(rows, about["padding"])}


class Words:
    """For each word, offset + CRC-32 of its UTF-8 modulo the number of buckets."""

    def __init__(self, about, folder):
        self.about = about

    def __call__(self, samples):
        return {self.about["input"]: padded([self.row(text) for text in samples], self.about["padding"])}

    def row(self, text):
        words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
        words = words[: self.about["max_words"]]
        return [self.about["offset"] + zlib.crc32(w.encode()) % self.about["buckets"] for w in words]


def padded(rows, value):
    length = max(map(len, rows))
    return np.array([row + [value] * (length - len(row)) for row in rows], np.int64).reshape(len(rows), length)
