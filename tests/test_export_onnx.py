"""A model leaves as ONNX files: every encoder with every head, most of them by night."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive import export
from contrastive.encoders import CBOW, HFDualImage, HFDualText, HFText, ResNet
from contrastive.errors import SpecError
from contrastive.exporters import onnx as target
from contrastive.exporters.onnx import graph
from contrastive.exporters.onnx.image_steps import runtime
from contrastive.heads import Identity, Linear, Mlp
from contrastive.losses import InfoNCE, Sigmoid
from contrastive.model.model import ContrastiveModel
from contrastive.spec import LoRA, ModelSpec, Tower
from tests import duals
from tests.tiny_encoders import SPECS, TEXTS, samples_of

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("one_seed", "offline")

ENCODERS = [
    "timm",
    "hf-image, ViT, cls",
    "hf-text, GPT-2, last",
    "hf-dual-image",
    "hf-dual-text",
    "sentence-transformers",
    "resnet",
    "vit",
    "text-transformer",
    "cbow",
]
HEADS = {
    "linear": Linear(),
    "mlp": Mlp(hidden=12),
    "residual mlp": Mlp(residual=True),
    "identity": Identity(),
}
ALIKE = {"timm", "hf-dual-image"}  # by day a resnet and a vit, which are timm's, and hf-image
BY_DAY = [
    (which, [*HEADS][i % len(HEADS)]) for i, which in enumerate(ENCODERS) if which not in ALIKE
]
OTHERS = [  # of the same encoders, which export otherwise
    "hf-image, ResNet, mean",
    "hf-image, CLIP, pooler",
    "hf-text, BERT, mean",
    "hf-text, T5's encoder",
    "hf-text, CLIP, pooler",
]
BY_NIGHT = [(which, head) for which in ENCODERS for head in HEADS if (which, head) not in BY_DAY]
BY_NIGHT += [(which, "linear") for which in OTHERS]
LONGER = [*TEXTS, "x", "Two Dogs!", "cat dog " * 300]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, models):
    """Return a folder of tiny models, with a CLIP and a SigLIP of both halves among them."""
    root = tmp_path_factory.mktemp("duals")
    torch.manual_seed(0)
    duals.save_clip(root / "dual")
    for path in models.iterdir():
        (root / path.name).symlink_to(path)
    return root


def spec_of(which, folders):
    kinds = {"hf-dual-image": HFDualImage, "hf-dual-text": HFDualText}
    return kinds[which](name=f"{folders}/dual") if which in kinds else SPECS[which](folders)


def model_of(head=None, loss=None, lora=None, **encoders):
    """Return a model of towers with these encoders, given as configs."""
    frozen = "encoder" if lora else "none"
    towers = {
        modality: Tower(encoder=encoder, head=head or Linear(), lora=lora, frozen=frozen)
        for modality, encoder in encoders.items()
    }
    pairs = [(only, only) for only in towers] if len(towers) == 1 else None
    spec = ModelSpec(embed_dim=6, towers=towers, loss=loss or InfoNCE(), pairs=pairs)
    if isinstance(head, Identity):
        (encoder,) = encoders.values()
        spec = spec.model_copy(update={"embed_dim": encoder.build().out_dim})
    return ContrastiveModel(spec).eval()


def written(model, folder):
    """Write an export's files and return what embeds by them."""
    folder.mkdir()
    towers = [*model.towers]
    target.check(model, towers)
    target.write(model, folder, towers)
    return runtime().Model(folder)


def largest_difference(model, exported, modality, samples, sizes=(1, 2, 7)):
    """Compare embeddings in batches of several sizes, each with the same samples."""
    samples = (samples * 3)[:9]
    expected = model.embed(modality, samples).numpy()
    found = [exported.embed(modality, samples, batch_size=size) for size in sizes]
    return max(np.abs(one - expected).max() for one in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "head"),
    [*BY_DAY, *(pytest.param(*one, marks=pytest.mark.nightly) for one in BY_NIGHT)],
)
def test_every_encoder_with_every_head_gives_its_embeddings_in_onnxruntime(
    which, head, folders, tmp_path
):
    encoder = spec_of(which, folders)
    model = model_of(HEADS[head], **{encoder.modality: encoder})
    exported = written(model, tmp_path / "onnx")
    samples = LONGER if encoder.modality == "text" else samples_of(model.tower("image").encoder)
    assert largest_difference(model, exported, encoder.modality, samples) < 1e-5
    inputs = exported.about["towers"][encoder.modality]["inputs"]
    assert all(about["shape"][0] == "batch" for about in inputs.values())
    if encoder.modality == "text":
        assert all(about["shape"][1] == "length" for about in inputs.values())


@pytest.mark.nightly
def test_lora_is_merged_and_compared_in_a_process_without_this_package(tmp_path, folders):
    tuned = model_of(text=HFText(name=f"{folders}/bert"), lora=LoRA(rank=2))
    plain = tuned.embed("text", TEXTS)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    assert not torch.allclose(plain, tuned.embed("text", TEXTS), atol=1e-3)
    done = export(tuned, "onnx", tmp_path / "tuned")
    assert done.differences["text"] < 1e-5
    exported = runtime().Model(tmp_path / "tuned")
    assert largest_difference(tuned, exported, "text", LONGER) < 1e-5


@pytest.mark.slow
def test_the_command_tells_the_difference_and_the_bias_comes_along(tmp_path, command):
    model = model_of(loss=Sigmoid(), text=CBOW(width=8, buckets=50))
    model.save(tmp_path / "model")
    ended = command("export", "-m", tmp_path / "model", "--to", "onnx", "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "largest difference in onnx: text " in ended.out
    about = json.loads((tmp_path / "out" / "onnx.json").read_text())
    assert about["logit_bias"] == pytest.approx(model.loss.bias.item())
    assert about["logit_scale"] == pytest.approx(model.scale)


@pytest.mark.slow
def test_int8_files_are_smaller_and_their_recall_is_told(tmp_path):
    colours = [Image.new("RGB", (20, 20), (40 * i, 255 - 40 * i, 9)) for i in range(6)]
    pairs = [{"image": image, "text": f"number {i}", "id": i} for i, image in enumerate(colours)]
    image = ResNet(layers=(1, 1, 1, 1), width=8, image_size=32)
    model = model_of(text=CBOW(width=64, buckets=5000), image=image)
    done = export(model, "onnx", tmp_path / "out", samples=pairs, int8=True)
    lines = "\n".join(done.notes)
    assert "int8: image to text on 6 held-out rows: R@1 " in lines
    about = json.loads((tmp_path / "out" / "onnx.json").read_text())
    for modality in ("image", "text"):
        tower = about["towers"][modality]
        small, whole = (
            (tmp_path / "out" / tower[which]).stat().st_size for which in ("int8", "file")
        )
        assert small < whole / 2
    small = runtime().Model(tmp_path / "out", int8=True).embed("text", ["number 1", "number 2"])
    assert (small * model.embed("text", ["number 1", "number 2"]).numpy()).sum(-1).min() > 0.98
    assert about["int8_measured"]["rows"] == len(pairs)
    with pytest.raises(SpecError, match="int8: transformers has no files with weights of 8 bits"):
        export(model, "transformers", tmp_path / "other", int8=True)


@pytest.mark.slow
def test_weights_beyond_what_a_file_holds_go_into_one_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "LARGEST", 100)
    model = model_of(text=CBOW(width=8, buckets=1000))
    exported = written(model, tmp_path / "onnx")
    beside = tmp_path / "onnx" / "text.onnx.data"
    assert beside.stat().st_size > 4 * 8 * 1000
    assert largest_difference(model, exported, "text", LONGER) < 1e-5


@pytest.mark.nightly
def test_a_model_that_heeds_padding_takes_texts_of_one_length(tmp_path, folders):
    model = model_of(text=HFText(name=f"{folders}/bert"))
    model.tower("text").encoder.by_length = True
    exported = written(model, tmp_path / "onnx")
    assert exported.about["towers"]["text"]["batches"] == "of one length"
    assert largest_difference(model, exported, "text", LONGER) < 1e-5


def test_attention_that_torch_does_not_export_is_written_out_for_that_time_alone(
    built, monkeypatch, tmp_path
):
    encoder = built("hf-text, BERT, mean")
    tower = Tower(encoder=CBOW(), head=Linear())
    model = ContrastiveModel(
        ModelSpec(embed_dim=6, towers={"text": tower}, loss=InfoNCE(), pairs=[("text", "text")]),
        encoders={"text": encoder},
    ).eval()
    tried = []

    def export_nothing(*args, **options):
        tried.append(encoder.model.config._attn_implementation)
        raise RuntimeError from ValueError("no flex attention\nin a graph")

    monkeypatch.setattr(torch.onnx, "export", export_nothing)
    with pytest.raises(SpecError, match=r"^towers\.text: torch\.onnx cannot export cbow: no flex"):
        graph.write_graph(model.tower("text"), "text", LONGER, tmp_path / "text.onnx")
    assert tried == ["sdpa", "eager"]
    assert encoder.model.config._attn_implementation == "sdpa"


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path):
    net = torch.nn.Linear(3, 4)
    model = ContrastiveModel.from_modules(
        {"image": net, "text": net}, {"image": torch.zeros, "text": torch.zeros}, embed_dim=4
    )
    with pytest.raises(SpecError, match=r"^towers\.image: .* not for GivenModule"):
        export(model, "onnx", tmp_path / "out")
    assert not [*tmp_path.iterdir()]
