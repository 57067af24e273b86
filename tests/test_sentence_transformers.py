"""Features of sentence-transformers are what its ``encode`` gives, whatever a model is made of."""

import pickle  # noqa: TID251  (as it is sent to workers)

import numpy as np
import pytest
import torch
import transformers as t

from contrastive.encoders import SentenceTransformers
from contrastive.errors import SpecError
from tests.tiny_encoders import TEXTS, WORDS, bert_tokenizer, features, gpt_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]

SAMPLES = [*TEXTS, "The Cat", "the cat sat on a mat with two dogs " * 20]
BODY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
BODY |= {"num_attention_heads": 2, "vocab_size": 32, "max_position_embeddings": 66}
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] if m['content'] is string "
    "else m['content'][0]['text'] }} dog{% endfor %}"
)


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """Return folders of tiny models, by name."""
    root = tmp_path_factory.mktemp("bodies")
    torch.manual_seed(0)
    chat = gpt_tokenizer()
    chat.pad_token, chat.chat_template = "<end>", CHAT
    heads = {"head_dim": 8, "num_key_value_heads": 2}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 32}
    made = {
        "bert": (t.BertModel(t.BertConfig(**BODY)), bert_tokenizer(model_max_length=66)),
        "convbert": (
            t.ConvBertModel(t.ConvBertConfig(**BODY, embedding_size=16)),
            bert_tokenizer(model_max_length=66),
        ),
        "qwen": (t.Qwen3Model(t.Qwen3Config(**BODY, **heads)), chat),
        "t5": (t.T5EncoderModel(t.T5Config(**t5)), bert_tokenizer()),
    }
    for name, (model, tokenizer) in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def stacks(at):
    """Return the modules and the options of each kind of model, not made yet."""
    from sentence_transformers.sentence_transformer import modules as m
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    def body(name="bert", **options):
        return m.Transformer(str(at / name), **options)

    def words():
        table = np.random.default_rng(0).normal(size=(len(WORDS), 16)).astype("float32")
        return m.WordEmbeddings(WhitespaceTokenizer(WORDS, stop_words=set()), table)

    def static():
        return m.StaticEmbedding(bert_tokenizer().backend_tokenizer, embedding_dim=16)

    def mean(**options):
        return m.Pooling(16, "mean", **options)

    def router(**options):
        return m.Router({"query": [static()], "document": [body(), mean()]}, **options)

    prompts = {"prompts": {"query": "the dog ", "passage": "a cat "}}
    default = prompts | {"default_prompt_name": "query"}
    return {
        "default prompt": lambda: ([body(), mean()], default),
        "prompt left out of the mean": lambda: ([body(), mean(include_prompt=False)], default),
        "truncate_dim": lambda: ([body(), mean(), m.Normalize()], {"truncate_dim": 6}),
        "chat template": lambda: ([body("qwen"), m.Pooling(16, "lasttoken")], {}),
        "chat template and prompt": lambda: ([body("qwen"), m.Pooling(16, "lasttoken")], default),
        "convolutions": lambda: ([body("convbert"), mean()], {}),
        "CNN": lambda: ([body(), m.CNN(16, 8, [1, 3]), mean()], {}),
        "T5 without a length": lambda: ([body("t5"), mean()], {}),
        "lengths": lambda: ([body(max_seq_length=9), mean()], {}),
        "processing_kwargs": lambda: (
            [body(processing_kwargs={"text": {"max_length": 7}}), mean()],
            {},
        ),
        "static": lambda: ([static(), m.Normalize()], default),
        "bag of words": lambda: ([m.BoW(WORDS, {"dog": 2.0}), m.Dense(len(WORDS), 8)], {}),
        "word vectors": lambda: ([words(), m.WordWeights(WORDS, {"dog": 3.0}), mean()], {}),
        "LSTM": lambda: ([words(), m.LSTM(16, 8), mean()], {}),
        "router": lambda: ([router(default_route="document")], {}),
        "router of queries": lambda: ([router()], prompts),
        "router of documents": lambda: ([router()], prompts),
        "shorter queries": lambda: ([body(query_length=5), mean()], {}),
    }


TASKS = {"router of queries": "query", "router of documents": "document"}
TASKS |= {"shorter queries": "query"}


@pytest.fixture
def saved(bodies, tmp_path):
    """Return a function that saves a model, by name, and returns the peer's of it."""
    from sentence_transformers import SentenceTransformer

    def save(which):
        modules, options = stacks(bodies)[which]()
        model = SentenceTransformer(modules=modules, device="cpu", **options)
        model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
        return SentenceTransformer(str(tmp_path / "model"), device="cpu")

    return save


@pytest.mark.parametrize("which", stacks(None))
def test_features_are_what_encode_gives(which, saved, tmp_path):
    peer = saved(which)
    task = TASKS.get(which)
    encode = {None: peer.encode, "query": peer.encode_query, "document": peer.encode_document}
    each = [encode[task]([x], show_progress_bar=False)[0] for x in SAMPLES]
    module = SentenceTransformers(name=str(tmp_path / "model"), task=task).build().eval()
    sent = pickle.dumps(module.preprocess)  # to a worker
    assert len(sent) < 20_000
    with torch.no_grad():
        found = module(**pickle.loads(sent)(SAMPLES))
    expected = torch.from_numpy(np.stack(each))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_prompt_is_chosen_by_its_text_or_its_name(saved, tmp_path):
    peer, spec = saved("default prompt"), SentenceTransformers(name=str(tmp_path / "model"))
    choices = [{"prompt": "two "}, {"prompt": ""}, {"prompt_name": "passage"}, {}]
    for choice in choices:
        expected = torch.from_numpy(peer.encode(TEXTS, show_progress_bar=False, **choice))
        found = features(spec.model_copy(update=choice).build(), TEXTS)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len({repr(spec.model_copy(update=c).build().preprocess) for c in choices}) == 4


@pytest.mark.parametrize(
    ("which", "fields", "said"),
    [
        ("default prompt", {"prompt_name": "q"}, "no prompt 'q'; it has: query, .*passage"),
        ("static", {"max_length": 5}, "reads texts whole; leave max_length out"),
        ("static", {"prompt_name": "q"}, "no prompt 'q'"),
    ],
)
def test_what_a_model_does_not_have_is_said_in_one_line(which, fields, said, saved, tmp_path):
    saved(which)
    with pytest.raises(SpecError, match=said):
        SentenceTransformers(name=str(tmp_path / "model"), **fields).build()


def test_two_prompts_are_refused():
    with pytest.raises(ValueError, match="prompt and prompt_name are given; give one"):
        SentenceTransformers(name="a", prompt="b", prompt_name="c")


def test_a_length_that_is_asked_for_wins_over_those_of_the_model(saved, tmp_path):
    saved("processing_kwargs")
    for asked in (5, 12):
        spec = SentenceTransformers(name=str(tmp_path / "model"), max_length=asked)
        inputs = spec.build().preprocess(SAMPLES)
        assert inputs["input_ids"].shape == (len(SAMPLES), asked)


@pytest.mark.parametrize("kind", ["bag of words", "word vectors"])
def test_a_model_of_another_language_is_tried_in_its_own_words(kind, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as m
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    words = ["hund", "katze", "schläft", "läuft"]
    table = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    if kind == "bag of words":
        parts = [m.BoW(words, {}), m.Dense(4, 8)]
    else:
        vectors = m.WordEmbeddings(WhitespaceTokenizer(words, stop_words=set()), table)
        parts = [vectors, m.Pooling(8, "mean")]
    peer = SentenceTransformer(modules=parts, device="cpu")
    peer.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    texts = ["hund läuft", "katze schläft"]
    found = features(SentenceTransformers(name=str(tmp_path / "model")).build(), texts)
    expected = torch.from_numpy(peer.encode(texts, show_progress_bar=False))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
