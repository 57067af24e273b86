"""What the documentation cannot run here runs by a stand-in of the same form.

The hub's models and data are tiny ones of the same classes, in folders; a GPU is Triton's
interpreter or the CPU; a cluster is two processes; minutes are smaller networks or fewer rounds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contrastive.datasets.miniature import Drawing, write_image_folder
from tests.duals import save_clip
from tests.miniature import write_flickr30k, write_hub_copy
from tests.pages import ROOT, blocks_of, stood_in
from tests.toys import network

pytestmark = pytest.mark.slow

BLOCKS = stood_in()
TESTED = {
    "README.md 1",  # by tests/test_readme_uses.py
    "examples/flickr30k_clip/README.md 2",  # by tests/test_examples.py
}
BRIEF = "training.epochs=1 training.batch_size=16 training.workers=0"
RESNET = '"model.towers.image.encoder={type: resnet, width: 4, image_size: 32, augment: %s}"'


def instead_of(name):
    """Mark the test that runs what stands in for a block, and give it the block."""
    TESTED.add(name)
    return pytest.mark.parametrize("block", [BLOCKS[name]], ids=[name])


@pytest.fixture
def follow(reader, record_property):
    """Follow a block with other names in it, and overrides behind each training."""

    def run(block, *pairs, train=""):
        text = block.text.replace("\\\n", " ")
        for published, ours in pairs:
            assert published in text, published
            text = text.replace(published, str(ours))
        lines = text.splitlines(keepends=True)
        lines = [
            f"{x.partition(' #')[0].rstrip()} {train}\n" if " train " in x else x for x in lines
        ]
        reader.follow(replace(block, text="".join(lines)))
        record_property("stand-in", f"{block.where} ({block.reason})")

    return run


@pytest.fixture
def photos(reader):
    """Write the images that a reader has."""
    for index, name in enumerate(("photo.jpg", "dog.jpg", "emoji.png")):
        Drawing(index).draw().save(name)
    write_flickr30k(Path("flickr30k"), images=48)


@pytest.fixture
def tiny(distilbert):
    """Return the overrides that put tiny networks in the place of the hub's."""
    weights = f"model.towers.image.encoder.weights={network()}"
    names = (
        f"model.towers.image.encoder.name=test_resnet model.towers.text.encoder.name={distilbert}"
    )
    return f"{names} {weights} {BRIEF}"


def resnet(folder):
    """Write a folder as timm's models have on the hub."""
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "test_resnet", "num_classes": 0}')
    shutil.copy(network(), folder / "model.safetensors")
    return f"local-dir:{folder}"


def test_every_block_that_does_not_run_as_it_is_has_a_stand_in():
    assert set(BLOCKS) == TESTED


@instead_of("README.md 2")
def test_the_flagship_in_python(block, follow, reader, photos, distilbert, capsys):
    vars(reader.module)["__name__"] = "__main__"
    follow(
        block,
        ("resnet50", resnet(Path("resnet"))),
        ("distilbert-base-multilingual-cased", distilbert),
        ("batch_size=128, epochs=3", "batch_size=16, epochs=1, workers=0"),
    )
    assert reader.printed[block.place].startswith("tensor([[")


@instead_of("README.md 3")
def test_the_flagship_by_commands(block, follow, photos, tiny):
    save_clip(Path("tiny-clip"))
    Path("val2017").mkdir()
    Path("sugarcrepe").mkdir()
    shutil.copy("dog.jpg", "val2017")
    one = {"filename": "dog.jpg", "caption": "a dog", "negative_caption": "a cat"}
    Path("sugarcrepe/replace_obj.json").write_text(json.dumps({"0": one}))
    follow(
        block,
        ("/data/flickr30k", "flickr30k"),
        ("~/photos", "flickr30k/flickr30k-images"),
        ("hf:openai/clip-vit-base-patch32", "hf:tiny-clip"),
        train=tiny,
    )


@instead_of("examples/flickr30k_clip/README.md 1")
def test_the_example_by_commands(block, follow, photos, tiny):
    folders = ("~/photos", "flickr30k/flickr30k-images")
    follow(block, ("/data/flickr30k", "flickr30k"), folders, train=tiny)


@instead_of("examples/flickr30k_clip/README.md 3")
def test_the_example_without_a_network(block, follow, reader, photos, distilbert):
    pytest.importorskip("datasets")
    resnet(Path("hub-resnet"))
    write_hub_copy(Path("hub-flickr30k"))
    at_hub = {
        "timm/resnet50.a1_in1k": "hub-resnet",
        "distilbert/distilbert-base-multilingual-cased": distilbert,
        "nlphuji/flickr30k": "hub-flickr30k",
    }

    def download(verb, name, *words):
        assert verb == "download"
        to = Path(words[words.index("--local-dir") + 1])
        files = [word for word in words if Path(word).suffix and word != "*.parquet"]
        shutil.copytree(at_hub[name], to)
        return len({*files} - {path.name for path in to.iterdir()} - {"vocab.txt"}), name

    reader.type_hf = download
    named = f"model.towers.image.encoder.name=test_resnet {BRIEF}"
    follow(block, ("/data/flickr30k", "flickr30k"), train=named)


@instead_of("examples/emoji/README.md 1")
def test_a_model_from_scratch(block, follow):
    smaller = f"{RESNET % 'crop-flip'} data.captions_per_image=1 training.epochs=1"
    follow(block, train=f"{smaller} training.workers=0")


@pytest.mark.nightly  # by day, tests/test_modality_pairs.py trains on two views
@instead_of("examples/views/README.md 1")
def test_two_views(block, follow, photos):
    write_image_folder(Path("images"))
    smaller = f'"data={{type: image-folder, folder: images}}" {BRIEF}'
    minilm = '"model.towers.text.encoder={type: text-transformer, width: 384, depth: 1, heads: 2}"'
    follow(
        block,
        ("simclr.yaml", f"simclr.yaml {smaller} {RESNET % 'simclr'}"),
        ("simcse.yaml", f"simcse.yaml {smaller} {minilm}"),
    )


@instead_of("plugins/contrastive-openclip/README.md 1")
def test_a_model_of_open_clip(block, follow, photos):
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_model

    folder = Path("tiny")
    folder.mkdir()
    tower = {"layers": 2, "width": 32}
    sizes = {
        "embed_dim": 16,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": tower | {"context_length": 77, "vocab_size": 49408, "heads": 2},
    }
    config = {"model_cfg": sizes, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_model(
        open_clip.create_model(f"local-dir:{folder}"), folder / "open_clip_model.safetensors"
    )
    follow(block, ("open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:tiny"))


@pytest.mark.nightly  # by day, tests/interpreted has more of it
@instead_of("docs/losses.md 1")
def test_the_fused_loss_in_the_interpreter(block, tmp_path, record_property):
    if not importlib.util.find_spec("triton"):
        pytest.skip("needs Triton")
    before = [x.text for x in blocks_of(ROOT / block.place) if x.line < block.line]
    (tmp_path / "page.py").write_text("\n".join([*before[-1:], block.text, "print(loss.item())"]))
    done = subprocess.run(
        [sys.executable, "page.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
    record_property("stand-in", f"{block.where} ({block.reason})")


@pytest.mark.nightly  # tests/test_ranks.py trains on two ranks under torchrun
@instead_of("docs/training.md 1")
def test_two_ranks(block, follow, reader):
    write_flickr30k(Path("flickr30k"), images=48)
    (spec,) = (x for x in blocks_of(ROOT / block.place) if x.file == "clip.yaml")
    reader.follow(spec)
    torchrun = ("-m", "torch.distributed.run", "--standalone")
    reader.type_torchrun = lambda *words: reader.type_python(*torchrun, *words)
    follow(block, ("--nproc-per-node 4", "--nproc-per-node 2"))
    assert Path("runs/clip/model").is_dir()


@pytest.mark.nightly  # tests/test_first_contact.py runs the program
@instead_of("docs/benchmarks.md 1")
def test_the_losses_are_measured(block, follow):
    tiny = "--sizes 64 --widths 16 --rounds 1 --ours eager --sections speed --losses infonce"
    tiny += " --modes both --features unit"
    follow(
        block,
        ("--device cuda", f"--device cpu --peers '' {tiny}"),
        ("--sizes 2048,4096,8192 --widths 512", "--sizes 64 --widths 16"),
        ("--rounds 9", "--rounds 1 --sections speed"),
    )
    assert Path("runs/h200/results.json").is_file()
