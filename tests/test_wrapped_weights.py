"""Weights of transformers whose names begin with what a model was wrapped in are refused."""

import pytest
import transformers as t
from safetensors.torch import load_file, save_file

from contrastive import load_model
from contrastive.encoders import HFDualImage, HFImage, HFText, SentenceTransformers
from contrastive.errors import WeightsError
from tests import duals
from tests.tiny_encoders import bert_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]

BODY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
BODY |= {"num_attention_heads": 2}


def bert(folder):
    model = t.BertModel(t.BertConfig(**BODY, vocab_size=len(bert_tokenizer())))
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)


def sentences(folder):
    library = pytest.importorskip("sentence_transformers")
    bert(folder / "bert")
    library.SentenceTransformer(str(folder / "bert"), device="cpu").save(str(folder))


LOADERS = {
    "hf-text": (bert, lambda name: HFText(name=name).build()),
    "hf-image of a dual": (duals.FAMILIES["clip"], lambda name: HFImage(name=name).build()),
    "hf-dual-image": (duals.FAMILIES["clip"], lambda name: HFDualImage(name=name).build()),
    "hf:NAME": (duals.FAMILIES["clip"], lambda name: load_model(f"hf:{name}")),
    "sentence-transformers": (sentences, lambda name: SentenceTransformers(name=name).build()),
}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net."])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_wrapper_is_named_and_what_is_saved_without_it_loads(loader, prefix, tmp_path):
    make, load = LOADERS[loader]
    make(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {prefix + name: tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=f"all names begin with '{prefix}', of what") as error:
        load(str(tmp_path))
    assert "\n" not in str(error.value)
    rule = str(error.value).split("save it without: ")[1]
    save_file(eval(rule, {"tensors": tensors}), file)
    load(str(tmp_path))


def test_a_sentence_model_that_lacks_weights_is_refused(tmp_path):
    sentences(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lack encoder.layer.0.output.dense.weight \(1 in all"):
        SentenceTransformers(name=str(tmp_path)).build()
