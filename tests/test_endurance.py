"""What only length shows: 60,000 damaged images, 10,000 steps, memory from step to step."""

from __future__ import annotations

import io
import json
import math
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from contrastive import RunSpec, train
from contrastive.reporting.run_log import read_log
from tests.miniature import write_flickr30k
from tests.toys import toy_dict

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


def in_a_process(code, *arguments):
    """Run code in a process of its own; return what it prints, as JSON."""
    line = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


FORMATS = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "GIF": {},
    "WEBP": {},
    "lossless WEBP": {"lossless": True},
    "BMP": {},
}


def drawn(form):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(noise).save(written, form.split()[-1], **FORMATS[form])
    return written.getvalue()


def test_no_damaged_image_is_more_than_a_bad_sample(tmp_path):
    for form in FORMATS:
        (tmp_path / form).write_bytes(drawn(form))
    report = in_a_process(
        """
        import json, random, sys, time
        from pathlib import Path
        from contrastive.data.images import open_image
        from contrastive.errors import BadSample

        whole = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
        chance, bad, longest = random.Random(7), 0, 0.0
        for _ in range(int(sys.argv[2])):
            data = bytearray(chance.choice(whole))
            for _ in range(chance.randint(1, 6)):
                near = chance.choice([len(data), 64])  # the header decides most
                place, length = chance.randrange(min(near, len(data))), chance.choice([1, 1, 2, 4])
                data[place : place + length] = chance.choice(
                    [chance.randbytes(length), b"\\xff" * length, bytes(length), b""]
                )
            if chance.random() < 0.2:
                del data[chance.randrange(len(data)) :]
            start = time.process_time()
            try:
                open_image(bytes(data))
            except BadSample as error:
                assert "\\n" not in str(error)
                bad += 1
            longest = max(longest, time.process_time() - start)
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        print(json.dumps({"bad": bad, "longest": longest, "peak": peak}))
        """,
        tmp_path,
        60_000,
    )
    print(report)
    assert 10_000 < report["bad"] < 60_000, "both kinds are met"
    assert report["longest"] < 2  # seconds of CPU
    assert report["peak"] < 512_000_000


def test_the_temperature_stays_in_its_bounds_for_10_000_steps(tmp_path):
    spec = toy_dict(tmp_path / "data", lr=1.0, warmup=0, batch_size=2, epochs=313)
    spec["evaluation"] = {"split": None}
    spec["model"]["loss"]["max_scale"] = 20.0
    train(RunSpec.model_validate(spec), tmp_path / "run")
    steps = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert len(steps) >= 10_000
    scales = [math.exp(step["log_scale"]) for step in steps]
    assert min(scales) >= 1 - 1e-4
    assert max(scales) <= 20 * (1 + 1e-4)
    at_a_bound = max(scales) > 19.9 or min(scales) < 1.001
    assert at_a_bound, "it never came to one, so that nothing would be shown"
    assert all(math.isfinite(step["loss"]) for step in steps)


def test_no_memory_is_lost_from_step_to_step(tmp_path):
    spec = toy_dict(tmp_path / "data", batch_size=8, epochs=500, cache="off", workers=4)
    spec["evaluation"] = {"split": None}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    resident = in_a_process(
        """
        import json, os, sys
        from contrastive import train
        from contrastive.reporting.run_log import Log

        resident, real = [], Log.step

        def step(self, done, *args, **more):
            real(self, done, *args, **more)
            if done % 50 == 0:
                pages = int(open("/proc/self/statm").read().split()[1])
                resident.append((done, pages * os.sysconf("SC_PAGE_SIZE")))

        Log.step = step
        train(*sys.argv[1:])
        print(json.dumps(resident))
        """,
        tmp_path / "spec.yaml",
        tmp_path / "run",
    )
    steps, used = np.array(resident, float).T
    assert steps[-1] >= 4000
    later = steps > 1000
    slope = 1000 * np.polyfit(steps[later], used[later], 1)[0]
    print(f"{slope / 1e6:.2f} MB per 1,000 steps, of {used[-1] / 1e6:.0f} MB")
    assert slope < 1e6


def bad_files(folder, whole):
    """Write a bad image of each kind; return the kinds by name."""
    png = next(path for path in folder.parent.rglob("*.jpg"))
    image = Image.open(png).convert("RGB")
    forms = {}
    for form in ("PNG", "GIF", "WEBP", "BMP", "TIFF"):
        written = io.BytesIO()
        image.save(written, form)
        forms[form] = written.getvalue()
    contents = {
        "empty": b"",
        "text": b"not an image",
        "page": b"<html>404 Not Found</html>",
        "zeros": bytes(5000),
        "noise": random.Random(0).randbytes(5000),
        "cut-jpeg": whole[: len(whole) // 2],
        "header-alone": whole[:20],
        "cut-png": forms["PNG"][: len(forms["PNG"]) // 2],
        "cut-gif": forms["GIF"][:30],
        "cut-webp": forms["WEBP"][: len(forms["WEBP"]) // 2],
        "cut-bmp": forms["BMP"][:60],
        "tiff": forms["TIFF"],
    }
    for name, content in contents.items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "folder.jpg").mkdir()
    (folder / "dangling.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    return [*contents, "folder", "dangling", "pipe"]


@pytest.mark.parametrize("cached", ["auto", "off"])
def test_a_run_goes_on_with_5_percent_bad_files_of_15_kinds(tmp_path, cached, capsys):
    data = tmp_path / "data"
    write_flickr30k(data, images=340)
    images = data / "flickr30k-images"
    found = json.loads((data / "dataset_flickr30k.json").read_text())
    train_images = [entry for entry in found["images"] if entry["split"] == "train"]
    whole = (images / train_images[0]["filename"]).read_bytes()
    kinds = bad_files(images, whole)
    assert len(kinds) == 15
    for entry, kind in zip(train_images[::9], kinds, strict=False):
        (images / entry["filename"]).unlink()
        (images / f"{kind}.jpg").rename(images / entry["filename"])
    assert not list(images.glob("[!0-9]*.jpg")), "each has taken the place of an image"
    spec = toy_dict(data, epochs=2, cache=cached, workers=2)
    spec["data"]["max_bad"] = 0.1
    train(RunSpec.model_validate(spec), tmp_path / "run")
    told = capsys.readouterr().err
    for entry, _ in zip(train_images[::9], kinds, strict=False):
        lines = [x for x in told.splitlines() if entry["filename"] in x and "one pair" not in x]
        assert len(lines) == 1, told
    spec["data"]["max_bad"] = 0.01
    with pytest.raises(Exception, match=r"\d+ of \d+ samples are bad, \d+ may be \(max_bad: 0.01"):
        train(RunSpec.model_validate(spec), tmp_path / "strict")
