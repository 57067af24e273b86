"""An encoder of each kind with tiny models, and samples for them."""

import pytest
import timm
import tokenizers
import torch
import transformers
from PIL import Image

from contrastive.encoders import (
    CBOW,
    HFImage,
    HFText,
    ResNet,
    SentenceTransformers,
    TextTransformer,
    Timm,
    ViT,
)

TEXTS = ["a dog", "two dogs run over the green grass", "cat", "the cat sat on a mat with a dog"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
SIDE = 32
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 24}
TIMM = "test_resnet.r160_in1k"


def bert_tokenizer(**options):
    """Return words to ids, between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {word: i for i, word in enumerate([*special, *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **options,
    )


def gpt_tokenizer():
    """Return words to ids with nothing around them, without padding, and padded on the left."""
    ids = {word: i for i, word in enumerate(["<end>", "<unk>", *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", unk_token="<unk>", padding_side="left"
    )


def save_models(root):
    """Save tiny models of the real classes, with random weights, each in a folder."""
    torch.manual_seed(0)
    t = transformers
    vocabulary = {"vocab_size": 32, "max_position_embeddings": 24}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    seen = {"image_size": SIDE, "patch_size": 16}
    processor = t.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    clip = t.CLIPConfig(
        text_config=TINY | vocabulary | ends, vision_config=TINY | seen, projection_dim=8
    )
    built = {
        "bert": t.BertModel(t.BertConfig(**TINY, **vocabulary)),
        "bert-mlm": t.BertForMaskedLM(t.BertConfig(**TINY, **vocabulary)),
        "distilbert": t.DistilBertModel(
            t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=32)
        ),
        "gpt2": t.GPT2Model(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32)),
        "t5": t.T5Model(
            t.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=32)
        ),
        "vit": t.ViTModel(t.ViTConfig(**TINY, **seen)),
        "resnet": t.ResNetModel(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
        ),
        "clip": t.CLIPModel(clip),
    }
    for name, model in built.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
        tokenizer = gpt_tokenizer() if name == "gpt2" else bert_tokenizer()
        tokenizer.save_pretrained(root / name)
    tiny = timm.create_model("test_vit", num_classes=5)
    timm.models.save_for_hf(tiny, root / "timm", safe_serialization=True)
    save_sentence_transformer(root / "bert-mlm", root / "sentences")
    return root


def save_sentence_transformer(source, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    body = Transformer(str(source))
    parts = [body, Pooling(16, "mean"), Normalize()]
    model = SentenceTransformer(
        modules=parts, device="cpu", prompts={"cap": "the "}, default_prompt_name="cap"
    )
    model.save_pretrained(str(folder), create_model_card=False)


SPECS = {
    "timm": lambda at: Timm(name="test_vit", pretrained=False),
    "timm, pretrained": lambda at: Timm(name=f"local-dir:{at}/timm"),
    "hf-image, ViT, mean": lambda at: HFImage(name=f"{at}/vit"),
    "hf-image, ViT, cls": lambda at: HFImage(name=f"{at}/vit", pooling="cls"),
    "hf-image, ViT, pooler": lambda at: HFImage(name=f"{at}/vit", pooling="pooler"),
    "hf-image, random": lambda at: HFImage(name=f"{at}/vit", pretrained=False),
    "hf-image, ResNet, mean": lambda at: HFImage(name=f"{at}/resnet"),
    "hf-image, ResNet, pooler": lambda at: HFImage(name=f"{at}/resnet", pooling="pooler"),
    "hf-image, CLIP, pooler": lambda at: HFImage(name=f"{at}/clip", pooling="pooler"),
    "hf-text, BERT, mean": lambda at: HFText(name=f"{at}/bert"),
    "hf-text, BERT, cls": lambda at: HFText(name=f"{at}/bert", pooling="cls"),
    "hf-text, BERT, pooler": lambda at: HFText(name=f"{at}/bert", pooling="pooler"),
    "hf-text, BERT, last": lambda at: HFText(name=f"{at}/bert", pooling="last"),
    "hf-text, random": lambda at: HFText(name=f"{at}/bert", pretrained=False),
    "hf-text, DistilBERT": lambda at: HFText(name=f"{at}/distilbert"),
    "hf-text, GPT-2, last": lambda at: HFText(name=f"{at}/gpt2", pooling="last"),
    "hf-text, T5's encoder": lambda at: HFText(name=f"{at}/t5"),
    "hf-text, CLIP, pooler": lambda at: HFText(name=f"{at}/clip", pooling="pooler"),
    "sentence-transformers": lambda at: SentenceTransformers(name=f"{at}/sentences"),
    "resnet": lambda at: ResNet(layers=(1, 1, 1, 1), width=8, image_size=SIDE),
    "resnet, bottleneck": lambda at: ResNet(
        block="bottleneck", layers=(1, 1, 1, 1), width=4, image_size=SIDE
    ),
    "vit": lambda at: ViT(image_size=SIDE, patch_size=8, width=16, depth=2, heads=2),
    "text-transformer": lambda at: TextTransformer(width=16, depth=2, heads=2, max_length=40),
    "cbow": lambda at: CBOW(width=8, buckets=100),
}
KINDS_OF_PREPROCESSING = [
    "timm",
    "hf-image, ViT, mean",
    "hf-text, BERT, mean",
    "vit",
    "text-transformer",
    "cbow",
]
every_encoder = pytest.mark.parametrize("which", SPECS)


def samples_of(module):
    if module.modality == "text":
        return TEXTS
    noise = torch.Generator().manual_seed(1)
    sizes = [(40, 60), (90, 50), (32, 32), (200, 33)]
    return [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=noise).byte().numpy())
        for h, w in sizes
    ]


def features(module, samples):
    with torch.no_grad():
        return module.eval()(**module.preprocess(samples))
