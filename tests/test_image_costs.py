"""What the most expensive images that are still read cost, each in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFile

from contrastive.data.images import MAX_BYTES, MAX_PIXELS, MAX_PROGRESSIVE_BYTES

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

MEASURE = """
import json, sys, time
from contrastive.data.images import open_image
def peak():  # ru_maxrss would be that of the parent, too
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
open_image(sys.argv[1])
before, start = peak(), time.process_time()
open_image(sys.argv[2])
print(json.dumps([time.process_time() - start, peak() - before]))
"""


def noise(side, *channels, high=256, dtype=np.uint8):
    shape = (side, side, *channels)
    return Image.fromarray(np.random.default_rng(0).integers(0, high, shape).astype(dtype))


def side(kind):
    return int(MAX_PIXELS[kind] ** 0.5)


WORST = {
    "JPEG of noise": lambda: (noise(6300, 3), {"format": "JPEG", "quality": 95, "subsampling": 0}),
    "JPEG, one colour": lambda: (Image.new("RGB", (8000, 8000)), {"format": "JPEG"}),
    "progressive JPEG": lambda: (
        noise(4400, 3),
        {"format": "JPEG", "quality": 80, "subsampling": 0, "progressive": True},
    ),
    "progressive JPEG, CMYK": lambda: (
        Image.new("CMYK", (side("progressive JPEG"),) * 2),
        {"format": "JPEG", "progressive": True},
    ),
    "PNG": lambda: (noise(side("PNG"), 3), {"format": "PNG", "compress_level": 1}),
    "PNG, alpha": lambda: (Image.new("RGBA", (side("PNG"),) * 2), {"format": "PNG"}),
    "PNG, grey and alpha": lambda: (
        noise(side("PNG"), 2),
        {"format": "PNG", "compress_level": 1},
    ),
    "PNG, a transparent colour": lambda: (
        noise(side("PNG"), 3),
        {"format": "PNG", "compress_level": 1, "transparency": (1, 2, 3)},
    ),
    "PNG, 16 bits": lambda: (
        noise(side("PNG"), high=65536, dtype=np.uint16),
        {"format": "PNG", "compress_level": 1},
    ),
    "GIF, transparent": lambda: (
        noise(side("GIF")).convert("P"),
        {"format": "GIF", "transparency": 3},
    ),
    "WebP, noise": lambda: (
        noise(side("WEBP"), 3),
        {"format": "WEBP", "quality": 100, "method": 0},
    ),
    "WebP, lossless": lambda: (
        noise(side("WEBP"), 4),
        {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    ),
    "BMP": lambda: (noise(5700, 3), {"format": "BMP"}),
}


@pytest.mark.parametrize("name", WORST)
def test_no_image_takes_above_512_mb(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 29)  # which writing noise needs
    image, options = WORST[name]()
    image.save(tmp_path / "worst", **options)
    noise(8).save(tmp_path / "small", "PNG")
    size = (tmp_path / "worst").stat().st_size
    assert size <= (MAX_PROGRESSIVE_BYTES if "progressive" in name else MAX_BYTES)
    command = [sys.executable, "-c", MEASURE, tmp_path / "small", tmp_path / "worst"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    seconds, memory = json.loads(out)
    with capsys.disabled():
        print(
            f"\n{name}: {image.width} x {image.height}, {size / 1e6:.1f} MB on disk: "
            f"{seconds:.2f} s of CPU time, {memory / 1e6:.0f} MB"
        )
    assert 0 < memory < 512e6
