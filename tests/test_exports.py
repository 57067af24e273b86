"""A model as a folder of transformers or sentence-transformers gives the same embeddings there."""

import pytest
import torch

import contrastive
from contrastive import load_model
from contrastive.exporters import verification
from contrastive.losses import Matryoshka
from tests import duals
from tests.exports import HEADS, elsewhere, is_old, model_of, rows, skip_if_old
from tests.tiny_encoders import SPECS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]

SENTENCES = "sentence-transformers"
PAIRS = (  # of encoders; the widths of the first two are equal, so that both heads may be identity
    ("hf-image, ViT, mean", "hf-text, BERT, mean"),
    ("vit", "sentence-transformers"),
    ("timm", "sentence-transformers"),
    ("resnet", "hf-text, BERT, mean"),
)
CELLS = [
    *((*pair, head, head) for pair in PAIRS[:2] for head in ("identity", "linear", "mlp")),
    *((*pair, "identity", "linear") for pair in PAIRS[2:]),
    *((*pair, "linear", "mlp") for pair in PAIRS[2:]),
    *((*pair, "mlp", "linear") for pair in PAIRS[2:]),
    (*PAIRS[0], "residual mlp", "residual mlp"),
    ("clip", "transformers", "identity"),
    ("siglip", "transformers", "identity"),
]
"""Image encoder, text encoder and their heads; or a dual model, the program and both heads."""
MORE = [
    *((family, SENTENCES, head) for family in ("clip", "siglip") for head in ("identity", "mlp")),
    *(
        (image, text, "linear", "linear")
        for image, text in (
            ("timm, pretrained", "hf-text, BERT, cls"),
            ("resnet, bottleneck", "hf-text, BERT, pooler"),
            ("hf-image, ViT, cls", "hf-text, GPT-2, last"),
            ("hf-image, ViT, pooler", "hf-text, T5's encoder"),
            ("hf-image, ResNet, pooler", "hf-text, CLIP, pooler"),
            ("hf-image, CLIP, pooler", "hf-text, DistilBERT"),
        )
    ),
]
"""Other poolings and architectures."""


def export_all(cells, models, root):
    """Export every cell, and return what one process without us finds in each folder."""
    samples, places = rows(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "compared", lambda folder, **_: {})
        for cell in cells:
            if is_old(cell[0]):
                continue
            places[cell] = root / f"{len(places)}"
            to = SENTENCES
            if len(cell) == 3:
                family, to, head = cell
                if not (root / family).exists():
                    duals.FAMILIES[family](root / family)
                model = dual_model(root / family, head)
            else:
                image, text, *heads = cell
                encoders = {"image": SPECS[image](models), "text": SPECS[text](models)}
                width = encoders["image"].build().out_dim if heads[0] == "identity" else 8
                named = zip(encoders.items(), heads, strict=True)
                towers = {m: {"encoder": one, "head": HEADS[head]} for (m, one), head in named}
                model = model_of(towers, width)
            contrastive.export(model, to, places[cell], samples=samples)
    return dict(zip(places, elsewhere([*places.values()]), strict=True))


def dual_model(folder, head):
    model = load_model(f"hf:{folder}")
    towers = {
        modality: {"encoder": tower.encoder, "head": HEADS[head]}
        for modality, tower in model.spec.towers.items()
    }
    changed = model_of(towers, model.spec.embed_dim)
    changed.loss = model.loss
    changed.spec = changed.spec.model_copy(update={"loss": model.spec.loss})
    return changed


@pytest.fixture(scope="module")
def found(models, tmp_path_factory):
    return export_all(CELLS, models, tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def more(models, tmp_path_factory):
    return export_all(MORE, models, tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize("cell", CELLS, ids=", ".join)
def test_a_program_without_us_gives_the_embeddings(cell, found):
    skip_if_old(cell[0])
    assert found[cell]["differences"].keys() == {"image", "text"}
    assert max(found[cell]["differences"].values()) <= 1e-5


@pytest.mark.nightly
@pytest.mark.parametrize("cell", MORE, ids=", ".join)
def test_so_it_does_for_other_architectures(cell, more):
    skip_if_old(cell[0])
    assert more[cell]["differences"].keys() == {"image", "text"}
    assert max(more[cell]["differences"].values()) <= 1e-5


def test_a_dual_model_keeps_its_scale_and_bias(tmp_path, monkeypatch):
    import transformers

    monkeypatch.setattr(verification, "compared", lambda folder, **_: {})
    for family, keys in (("clip", ["logit_scale"]), ("siglip", ["logit_scale", "logit_bias"])):
        model = load_model(f"hf:{duals.FAMILIES[family](tmp_path / family)}")
        with torch.no_grad():
            model.loss.log_scale.fill_(2.5)
            if model.loss.bias is not None:
                model.loss.bias.fill_(-3.25)
                wrapped = Matryoshka(loss=model.spec.loss, widths=(2, model.spec.embed_dim)).build()
                wrapped.inner, model.loss = model.loss, wrapped
        contrastive.export(model, "transformers", tmp_path / "out", samples=rows())
        theirs = transformers.AutoModel.from_pretrained(tmp_path / "out")
        expected = {"logit_scale": 2.5, "logit_bias": -3.25}
        assert {key: getattr(theirs, key).item() for key in keys} == {
            key: expected[key] for key in keys
        }
