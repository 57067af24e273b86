"""The suite for components: what is right passes, and what is wrong is named with its remedy.

Each package ``defect_*`` in ``tests/packages`` is ``healthy`` with one mistake.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from contrastive.components import REGISTRIES
from contrastive.config.base import Config
from contrastive.config.registry import Registry
from contrastive.datasets import (
    ClassFolders,
    Flickr30k,
    ImageFolder,
    Lines,
    Mix,
    WebDataset,
    datasets,
)
from contrastive.encoders import (
    CBOW,
    HFDualImage,
    HFDualText,
    HFImage,
    HFText,
    ResNet,
    SentenceTransformers,
    TextTransformer,
    Timm,
    ViT,
    encoders,
)
from contrastive.heads import Identity, Linear, Mlp, heads
from contrastive.losses import (
    DCL,
    Distillation,
    HardNegative,
    InfoNCE,
    Matryoshka,
    Queue,
    Sigmoid,
    SupCon,
    losses,
)
from contrastive.spec import EvaluationSpec
from contrastive.testing import check_component, examine_component, generic, loss_modules
from contrastive.testing import datasets as testing_datasets
from contrastive.testing import encoders as testing_encoders
from contrastive.testing import heads as testing_heads
from contrastive.testing.checks import Fault
from contrastive.testing.processes import in_subprocess
from tests import duals
from tests.miniature import write_flickr30k
from tests.shards import write_shards
from tests.toys import network

SIDE = 32
DEFECTS = {  # package: the check that fails, what it says is wrong, and what to do
    "address": ("repr", "has a memory address", "a frozen dataclass"),
    "awake": ("modes", "norm (BatchNorm1d) is in training mode after eval()", "pass its mode on"),
    "claims": ("reproducible", "table.weight differs between two builds", "weights are read"),
    "crashes": ("bad samples", "None makes preprocess raise AttributeError", "as as_text"),
    "default_dtype": ("build", "changes torch's default dtype", "leave what others share"),
    "detached": ("gradients", "no gradient reaches table.weight", "without detach"),
    "doubles": ("round trip", "width is 8 and becomes 16 once dumped", "idempotent"),
    "drift": ("frozen", "centre changes while the tower is frozen", "only if self.training"),
    "dropout": ("eval mode", "in eval mode it draws random numbers", "only if self.training"),
    "dump": ("round trip", "max_length: Input should be a valid integer", "dump every field"),
    "explodes": ("build", "raises SystemExit: 3 at __init__.py:", "expected: build returns"),
    "forgets": ("save and load", "saved and loaded embeds differently", "register_buffer"),
    "hashed_ids": ("other process", "another process builds other rows", "neither hash()"),
    "hashes": ("worker", "something else if preprocess runs in a worker process", "not on hash()"),
    "head_batch": ("batch size", "with what else is in its batch", "from its own sample"),
    "head_width": ("output", "embeddings are 24 wide, but the module says 16", "out_dim says"),
    "heavy": ("menu", "imports torch (contrastive_defect_heavy/__init__.py:3)", "inside build()"),
    "lambda": ("worker", "preprocess cannot be pickled", "without lambdas"),
    "lenient": ("strictness", "it takes a field that it does not have", "extra='forbid'"),
    "lock": ("worker", "cannot pickle '_thread.lock' object", "at the top of a module"),
    "loss_autocast": ("precision", "under autocast to bf16 the loss is", "LossModule.logits"),
    "loss_divides": ("temperature", "as log_scale grows from -1 to 0", "log_scale.exp()"),
    "loss_ids": ("ids", "rows of one group are negatives", "honour a_ids and b_ids"),
    "loss_memory": ("save and load", "for a batch that gave", "register_buffer"),
    "loss_overflows": ("precision", "at a logit scale of 100 the loss is", "in logarithms"),
    "loss_scale": ("log_scale", "log_scale is a plain tensor", "an nn.Parameter"),
    "loss_sums": ("mean", "of 8 rows it is", "average over rows"),
    "loss_unbounded": ("bounds", "after clamp_() log_scale is still 50", "clamp it in clamp_()"),
    "names_as_ids": ("rows", "the id of a row is 'red', a str", "number the groups"),
    "own_dice": ("augment", "differs between two calls under one seed", "from torch's global"),
    "padding": ("batch size", "when it is padded to longer ones", "mask padding"),
    "prints": ("menu", "importing it prints 'Thank you", "let modules be silent"),
    "shuffles": ("repeatable", "building it twice gives other rows", "leave shuffling to"),
    "sorts": ("batch order", "when the batch is reversed", "undo any sorting"),
    "splits": ("splits", "an unknown split raises KeyError", "raise contrastive.errors.DataError"),
    "squeeze": ("output", "features of a batch of 1 have the shape (8,)", "squeeze() also drops"),
    "tokens": ("output", "(11, 41, 8), not (11, 8)", "pool tokens"),
    "undocumented": ("docstrings", "field stride has no docstring", "write one"),
    "unseeded": ("seed", "table.weight differs between two builds", "torch's global generator"),
    "width": ("output", "features are 16 wide, but the module says 8", "one width: 16"),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def offered(package):
    """Return the default config of everything that an installed package offers."""
    return [
        registry[name]()
        for registry in REGISTRIES
        for name, offers in registry.installed.items()
        if offers[0].package == f"contrastive-{package.replace('_', '-')}"
    ]


# What is wrong is caught


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_a_mistake_fails_one_check_that_names_it_and_the_remedy(name, installed):
    installed("healthy", f"defect_{name}")
    (config,) = offered(f"defect_{name}")
    check, problem, remedy = DEFECTS[name]
    with pytest.raises(AssertionError) as caught:
        check_component(config)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{check}: ")
    said, _, to_do = line.partition("; ")
    assert problem in said
    assert remedy in to_do


@pytest.mark.slow
def test_every_kind_passes_without_the_mistake(installed):
    installed("healthy")
    configs = offered("healthy")
    assert {type(config).kind for config in configs} == {"encoder", "head", "loss", "dataset"}
    for config in configs:
        check_component(config)


def test_every_defective_package_is_tried():
    from tests.conftest import PACKAGES

    found = {folder.name for folder in PACKAGES.iterdir() if folder.name.startswith("defect_")}
    assert found == {f"defect_{name}" for name in DEFECTS}


# What is right passes


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return folders of tiny models of the real classes, with random weights."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    duals.save_clip(root / "clip")
    texts = {"vocab_size": 110, "max_position_embeddings": 40}
    transformers.BertModel(transformers.BertConfig(**duals.TINY, **texts)).save_pretrained(
        root / "bert"
    )
    words(root / "bert")
    picture = transformers.ViTConfig(**duals.TINY, **duals.SEEN)
    transformers.ViTModel(picture).save_pretrained(root / "vit")
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(
        root / "vit"
    )
    return root


def words(folder):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {word: i for i, word in enumerate([*special, *duals.WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)


def sentences(at):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    if not (at / "sentences").exists():
        parts = [Transformer(str(at / "bert")), Pooling(16, "mean")]
        model = SentenceTransformer(modules=parts, device="cpu")
        model.save_pretrained(str(at / "sentences"), create_model_card=False)
    return SentenceTransformers(name=str(at / "sentences"))


ENCODERS = {
    "timm": lambda at: Timm(name="test_resnet", weights=network(), augment="crop-flip"),
    "hf-image": lambda at: HFImage(name=f"{at}/vit"),
    "hf-text": lambda at: HFText(name=f"{at}/bert"),
    "hf-dual-image": lambda at: HFDualImage(name=f"{at}/clip"),
    "hf-dual-text": lambda at: HFDualText(name=f"{at}/clip"),
    "sentence-transformers": sentences,
    "resnet": lambda at: ResNet(layers=(1, 1, 1, 1), width=8, image_size=SIDE, augment="crop-flip"),
    "vit": lambda at: ViT(image_size=SIDE, patch_size=8, width=16, depth=2, heads=2),
    "text-transformer": lambda at: TextTransformer(width=16, depth=2, heads=2, max_length=40),
    "cbow": lambda at: CBOW(width=8, buckets=100),
}
HEADS = [Linear(), Mlp(), Mlp(residual=True), Identity()]
LOSSES = [
    InfoNCE(),
    InfoNCE(direction="a_to_b", label_smoothing=0.1, positives="mask"),
    InfoNCE(positives="ignore", execution="chunked"),
    Sigmoid(),
    DCL(sigma=0.5, learn_temperature=True),
    HardNegative(),
    SupCon(),
    Matryoshka(loss=InfoNCE(), widths=(8, 64)),
    Queue(loss=InfoNCE(), size=16),
    Queue(loss=Matryoshka(loss=Sigmoid(), widths=(8, 16)), size=16),
]


@pytest.mark.slow
@pytest.mark.parametrize("which", ENCODERS)
def test_built_in_encoders_pass(which, models):
    check_component(ENCODERS[which](models))


@pytest.mark.slow
@pytest.mark.parametrize("config", [*HEADS, *LOSSES], ids=repr)
def test_built_in_heads_and_losses_pass(config):
    check_component(config)


@pytest.mark.slow
def test_built_in_datasets_pass(tmp_path):
    folder = write_flickr30k(tmp_path / "flickr30k", images=24)
    check_component(Flickr30k(folder=folder))
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.jpg"))
    rows = [f"{path},image {i}" for i, path in enumerate(paths)]
    (folder / "captions.csv").write_text("\n".join(["image,text", *rows]))
    check_component(ImageFolder(folder=folder, captions="captions.csv"), split="test")
    check_component(ClassFolders(folder=folder))
    (tmp_path / "lines.txt").write_text("\n".join(f"line {i}\tsaid again {i}" for i in range(40)))
    lines = Lines(file=tmp_path / "lines.txt")
    check_component(lines)
    own = ImageFolder(folder=folder, captions="captions.csv")
    check_component(WebDataset(shards=write_shards(tmp_path / "shards", 2, 30)))
    check_component(Mix(datasets={"mine": own, "flickr": Flickr30k(folder=folder)}))


def test_every_component_that_is_built_in_is_tried():
    tried = {*ENCODERS, "flickr30k", "image-folder", "class-folders", "lines", "distillation"}
    tried |= {"mix", "webdataset", "table"}  # the latter in tests/test_table.py
    tried |= {heads.name_of(type(head)) for head in HEADS}
    tried |= {losses.name_of(type(loss)) for loss in LOSSES}
    registered = {name for kind in (encoders, heads, losses, datasets) for name in kind.registered}
    assert registered <= tried


@pytest.mark.slow
def test_a_loss_that_needs_a_teacher_says_why_it_is_not_called():
    verdicts = {v.check: v for v in examine_component(Distillation(loss=InfoNCE()))}
    assert not [v for v in verdicts.values() if v.problem]
    assert "distillation needs the teacher's embeddings" in verdicts["output"].skipped
    assert verdicts["log_scale"].passed


# Other modalities, other kinds


@pytest.mark.slow
def test_another_modality_asks_for_samples_in_one_line(installed):
    installed("series")
    (config,) = offered("series")
    with pytest.raises(AssertionError) as caught:
        check_component(config)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(
        "preprocess: there are no ready samples of the modality 'series'; give 3"
    )


@pytest.mark.slow
def test_another_modality_is_checked_with_samples_of_the_author(installed):
    installed("series")
    (config,) = offered("series")
    check_component(config, samples=[np.arange(8.0) * i for i in range(4)])


@pytest.mark.slow
def test_two_samples_are_not_enough():
    with pytest.raises(AssertionError, match="samples has 2; give 3 or more"):
        check_component(CBOW(width=8, buckets=64), samples=["a", "b"])


def test_a_kind_without_checks_of_its_own_gets_those_of_every_config():
    class Ornament(Config):
        """Hangs somewhere."""

        kind: ClassVar[str] = "ornament"

    Registry(Ornament, group="contrastive.ornaments")

    class Star(Ornament):
        points: int = 5

    verdicts = {v.check: v for v in examine_component(Star())}
    assert "defined inside a function" in verdicts["name"].problem
    assert verdicts["docstrings"].problem.startswith("the class, field points have no docstring")
    assert verdicts["schema"].passed
    assert verdicts["round trip"].skipped == "it needs 'name' to pass"


# The examination itself


@pytest.mark.slow
def test_random_states_and_settings_are_as_they_were():
    before = torch.get_rng_state()
    examine_component(CBOW(width=8, buckets=64))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_importing_the_package_imports_no_torch():
    code = "import sys, contrastive.testing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_class_instead_of_an_instance_is_told_at_once():
    with pytest.raises(TypeError, match=r"such as CBOW\(\)"):
        check_component(CBOW)


def test_a_config_that_is_no_component_is_told():
    with pytest.raises(AssertionError, match="EvaluationSpec is a config, but of no kind"):
        check_component(EvaluationSpec())


def test_the_documentation_names_every_check():
    page = (Path(__file__).parent.parent / "docs" / "encoders.md").read_text(encoding="utf-8")
    checks = (
        *generic.GENERIC_CHECKS,
        *testing_encoders.ENCODER_CHECKS,
        *testing_heads.HEAD_CHECKS,
        *loss_modules.LOSS_CHECKS,
        *testing_datasets.DATASET_CHECKS,
    )
    names = {check.name for check in checks}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.slow
def test_a_worker_process_that_dies_is_told_and_replaced():
    with pytest.raises(Fault, match="ended with code 3"):
        in_subprocess(os._exit, 3)
    assert in_subprocess(os.getpid) != os.getpid()
