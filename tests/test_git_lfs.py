"""A file that Git LFS has not fetched is told so, whatever it should hold."""

import pytest
import transformers as t
from PIL import Image

from contrastive.data.images import open_image
from contrastive.datasets import ImageFolder
from contrastive.encoders import HFText, SentenceTransformers, Timm
from contrastive.errors import ContrastiveError
from tests.tiny_encoders import bert_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
TOLD = "is a pointer of Git LFS, not the file; run in its folder: git lfs pull"

pytestmark = pytest.mark.usefixtures("one_seed", "offline")


def image(folder):
    (folder / "a.png").write_text(POINTER)
    open_image(folder / "a.png")


def table(folder, name="captions.csv"):
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    (folder / name).write_text(POINTER)
    ImageFolder(folder=folder).build("train")


def parquet(folder):
    pytest.importorskip("pyarrow")
    table(folder, "captions.parquet")


def bert(folder):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = t.BertConfig(**sizes, num_attention_heads=2, vocab_size=len(bert_tokenizer()))
    t.BertModel(config).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def text_model(folder):
    (bert(folder) / "model.safetensors").write_text(POINTER)
    HFText(name=str(folder)).build()


def tokenizer(folder):
    (bert(folder) / "tokenizer.json").write_text(POINTER)
    HFText(name=str(folder)).build()


def sentence_model(folder):
    library = pytest.importorskip("sentence_transformers")
    library.SentenceTransformer(str(bert(folder / "b")), device="cpu").save(str(folder / "s"))
    (folder / "s/model.safetensors").write_text(POINTER)
    SentenceTransformers(name=str(folder / "s")).build()


def timm_model(folder):
    (folder / "w.safetensors").write_text(POINTER)
    Timm(name="test_vit", weights=folder / "w.safetensors").build()


@pytest.mark.parametrize(
    "read",
    [image, table, parquet, text_model, sentence_model, timm_model],
    ids=lambda f: f.__name__,
)
def test_a_pointer_is_told_with_what_fetches_the_file(read, tmp_path):
    with pytest.raises(ContrastiveError) as error:
        read(tmp_path)
    assert TOLD in str(error.value)
    assert "\n" not in str(error.value)
