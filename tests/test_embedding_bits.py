"""An embedding has the same bits whatever else is embedded, and however it is come by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive import build_model
from contrastive.data.bad_rows import BadRows
from contrastive.data.loading import uniform_batches
from contrastive.encoders import CBOW, HFText, ResNet, TextTransformer, Timm, ViT
from contrastive.evaluation.labelled_splits import Reader
from contrastive.features.cache import FeatureCache
from contrastive.inference.embed_distinct import embed_modality
from tests.tiny_encoders import bert_tokenizer

WORDS = ["a", "dog", "cat", "sat", "on", "mat", "the", "grass", "run", "over"]
LONGEST = 14  # words
TEXTS = [" ".join(WORDS[(i * 7 + j) % 10] for j in range(1 + i % LONGEST)) for i in range(50)]
SPECS = {
    "bag of words": CBOW(width=24, buckets=64),
    "text transformer": TextTransformer(width=32, depth=2, heads=2, max_length=48),
    "resnet": ResNet(width=8, image_size=32),
    "vit": ViT(image_size=32, patch_size=8, width=32, depth=2, heads=2),
    "timm": Timm(name="test_efficientnet", pretrained=False),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """BERT of random weights, wide enough for kernels that depend on the number of rows."""
    import transformers as t

    folder = tmp_path_factory.mktemp("bert")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 256}
    t.BertModel(t.BertConfig(**sizes, hidden_size=128, vocab_size=32)).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return HFText(name=str(folder))


def images(n):
    dice = np.random.default_rng(0)
    return [Image.fromarray(dice.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(n)]


@pytest.fixture(params=[*SPECS, "bert"])
def setting(request):
    """A model of one frozen tower, twice, and samples for it."""
    torch.manual_seed(0)
    name = request.param
    encoder = request.getfixturevalue("bert") if name == "bert" else SPECS[name]
    modality = "image" if name in ("resnet", "vit", "timm") else "text"
    head = {"type": "mlp", "hidden": 96}
    tower = {"encoder": encoder, "head": head, "frozen": "encoder"}
    towers = {modality: tower}
    spec = {"embed_dim": 48, "towers": towers, "loss": {"type": "infonce"}}
    model = build_model(spec | {"pairs": [[modality, modality]]}).eval()
    return model, modality, images(26) if modality == "image" else TEXTS


def test_an_embedding_has_the_same_bits_alone_among_others_and_in_the_last_batch(setting, tmp_path):
    model, modality, samples = setting
    everything = model.embed(modality, samples)  # the last batch of each shape is short
    alone = range(-LONGEST, 0) if modality == "text" else (0, 19, -1)  # texts of every length
    for i in alone:
        assert torch.equal(model.embed(modality, [samples[i]])[0], everything[i]), i
    backwards = model.embed(modality, samples[::-1])
    assert torch.equal(backwards.flip(0), everything)
    cache = FeatureCache(tmp_path)
    for part in (samples[3:4], samples[:21], samples):
        cached = model.embed(modality, part, cache=cache)
        assert torch.equal(cached, everything[samples.index(part[0]) :][: len(part)])


def test_datasets_are_embedded_and_probed_with_the_same_bits(setting):
    model, modality, samples = setting
    samples = list(dict.fromkeys(samples)) if modality == "text" else samples
    rows = [{modality: sample, "id": i, "label": "a"} for i, sample in enumerate(samples)]
    whole = embed_modality(model, rows, modality, BadRows()).embeddings_QD
    few = embed_modality(model, rows[9:14], modality, BadRows()).embeddings_QD
    assert torch.equal(whole[9:14], few)
    reader = Reader(model, modality, inputs="features")
    everything = reader._features(samples, pytest.fail)
    alone = reader._features(samples[9:10], pytest.fail)
    assert np.array_equal(everything[9:10], alone)


def test_what_an_encoder_packs_is_a_batch_of_its_own():
    def packed(samples):  # rows of all samples, one behind another
        lengths = [len(sample) for sample in samples]
        return {"rows": torch.ones(sum(lengths), 2), "lengths": torch.tensor(lengths)}

    batches = list(uniform_batches(["abc", "a", "ab"], range(3), packed, batch_size=2))
    assert {batch.indices[0]: len(batch.inputs["rows"]) for batch in batches} == {0: 3, 1: 1, 2: 2}
    assert all(len(batch.indices) == 1 for batch in batches)
    texts = {batch.indices[0]: batch.filled(2)["rows"] for batch in batches}
    assert len(texts[2]) == 2, "what is packed cannot be repeated"
