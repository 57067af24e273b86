"""Models of transformers with odd configs: as without the oddity, or told in one line."""

import json

import pytest
import torch
import transformers as t

from contrastive.encoders import HFDualText, HFText, SentenceTransformers
from contrastive.encoders.text import tokenizing
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.encoders.trial import measure_out_dim
from contrastive.errors import SpecError, WeightsError
from tests import duals
from tests.tiny_encoders import TEXTS, bert_tokenizer, features, save_sentence_transformer

pytestmark = pytest.mark.usefixtures("one_seed", "offline")
BODY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32}
BODY |= {"num_attention_heads": 2, "max_position_embeddings": 24}


def save(model, folder, tokenizer=None, **changes):
    """Save a model as its authors would; ``changes`` are made to its config afterwards."""
    model.save_pretrained(folder)
    (tokenizer or bert_tokenizer()).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


class Chunked(TokenEncoder):
    """Tokens to the mean of those that are none of the padding, in texts of whole chunks only."""

    def __init__(self, chunk):
        super().__init__()
        self.preprocess = tokenizing(bert_tokenizer(), 24, who="it")
        self.table, self.chunk = torch.nn.Embedding(32, 4), chunk

    def encode(self, input_ids, attention_mask, **_):
        parts = input_ids.unflatten(1, (-1, self.chunk)).flatten(1)
        mask = attention_mask[..., None]
        return (self.table(parts) * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("chunk", [2, 3, 4, 24])
def test_a_model_that_takes_multiples_of_a_length_has_texts_padded_alike(chunk, capsys):
    module = Chunked(chunk)
    measure_out_dim(module, "a picture", "it")
    assert (
        "not take texts of every length, so all texts are padded to 24" in capsys.readouterr().err
    )
    for words in range(1, 26):
        assert features(module, ["cat " * words]).isfinite().all()
    with pytest.raises(SpecError, match=r"it: the model does not take what .*; choose another"):
        measure_out_dim(Chunked(5), "a picture", "it")


@pytest.mark.parametrize(
    "change", [{"chunk_size_feed_forward": 4}, {"return_dict": False}, {"output_attentions": True}]
)
@pytest.mark.parametrize("kind", [HFText, SentenceTransformers])
def test_what_a_config_says_of_how_to_compute_does_not_count(kind, change, tmp_path):
    plain = t.BertModel(t.BertConfig(**BODY))
    found = []
    for name, changes in (("as it is", {}), ("changed", change)):
        folder = save(plain, tmp_path / name)
        if kind is SentenceTransformers:
            save_sentence_transformer(folder, folder := f"{folder}, sentences")
        path = tmp_path / folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        found.append(features(kind(name=folder).build(), [*TEXTS, "a"]))
    assert torch.equal(*found)


def test_a_config_that_does_not_fit_the_weights_is_told_with_both_shapes(tmp_path):
    folder = save(t.BertModel(t.BertConfig(**BODY)), tmp_path, max_position_embeddings=48)
    said = r"position_embeddings.weight is \[24, 16\] in the file, and \[48, 16\] by the config"
    with pytest.raises(WeightsError, match=said):
        HFText(name=folder).build()


def test_layers_that_a_config_leaves_out_are_told(tmp_path, capsys):
    folder = save(t.BertForMaskedLM(t.BertConfig(**BODY)), tmp_path)
    HFText(name=folder).build()
    assert "not used" not in capsys.readouterr().err
    HFText(name=save(t.BertModel(t.BertConfig(**BODY)), tmp_path, num_hidden_layers=1)).build()
    said = "16 weights in {} are not used, the first is encoder.layer.1.attention"
    assert said.format(folder) in capsys.readouterr().err


def test_a_clip_of_old_whose_padding_comes_after_the_end_embeds_as_without_padding(tmp_path):
    """Its config calls the end 2, so that transformers takes the place of the largest id."""
    tokenizer = duals.clip_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    texts = BODY | {"vocab_size": len(tokenizer), "eos_token_id": 2, "pad_token_id": 1}
    config = t.CLIPConfig(text_config=texts, vision_config=duals.TINY | duals.SEEN)
    model = t.CLIPModel(config).eval()
    module = HFDualText(name=save(model, tmp_path, tokenizer)).build()
    found = model.get_text_features(**tokenizer(TEXTS[1], return_tensors="pt"))
    found = getattr(found, "pooler_output", found)
    torch.testing.assert_close(features(module, TEXTS)[1:2], found.detach())
