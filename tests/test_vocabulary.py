"""A tokenizer with tokens that its model has no embeddings for is refused, or one such text is."""

import pytest
import transformers as t

from contrastive.encoders import HFDualText, HFText, SentenceTransformers
from contrastive.errors import BadSample, SpecError
from tests import duals
from tests.tiny_encoders import bert_tokenizer, features

pytestmark = pytest.mark.usefixtures("one_seed", "offline")

BODY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
BODY |= {"num_attention_heads": 2}


def bert(folder):
    model = t.BertModel(t.BertConfig(**BODY, vocab_size=len(bert_tokenizer())))
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return HFText(name=str(folder))


def clip(folder):
    duals.FAMILIES["clip"](folder)
    return HFDualText(name=str(folder))


def sentences(folder):
    library = pytest.importorskip("sentence_transformers")
    bert(folder / "bert")
    parts = pytest.importorskip("sentence_transformers.models")
    word = parts.Transformer(str(folder / "bert"))
    pooling = parts.Pooling(word.get_embedding_dimension())
    library.SentenceTransformer(modules=[word, pooling], device="cpu").save(str(folder / "whole"))
    return SentenceTransformers(name=str(folder / "whole"))


def add(spec, *tokens, special):
    tokenizer = t.AutoTokenizer.from_pretrained(spec.name)
    known = len(tokenizer)
    tokenizer.add_tokens([*tokens], special_tokens=special)
    tokenizer.save_pretrained(spec.name)
    return known


@pytest.mark.parametrize("make", [bert, clip, sentences])
def test_words_that_were_added_without_embeddings_are_refused_with_a_remedy(make, tmp_path):
    spec = make(tmp_path)
    own = t.AutoTokenizer.from_pretrained(spec.name)
    size = add(spec, "zebra", "okapi", special=False)
    with pytest.raises(SpecError) as error:
        spec.build()
    told = f"is the tokenizer's token of number {size}, and the model has embeddings for {size},"
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert "put the tokenizer that the model was trained with into its folder" in str(error.value)
    own.save_pretrained(spec.name)
    assert features(spec.build().eval(), ["a zebra"]).isfinite().all()


@pytest.mark.parametrize("make", [bert, clip, sentences])
def test_a_special_token_without_an_embedding_is_refused_where_a_text_has_it(make, tmp_path):
    spec = make(tmp_path)
    size = add(spec, "<image>", special=True)
    module = spec.build().eval()
    assert features(module, ["a cat", "a dog on a mat"]).isfinite().all()
    with pytest.raises(BadSample, match=f"'<image>' is a token of number {size}, .* for {size}"):
        module.preprocess(["a cat", "a <image>"])
