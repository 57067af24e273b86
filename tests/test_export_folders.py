"""What an export leaves on disk: a whole folder that was compared, or nothing; and what it says."""

import ast
import errno
import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

import contrastive
from contrastive.errors import DataError, SpecError, WeightsError
from contrastive.exporters import sentence_transformers as target
from contrastive.exporters import verification
from contrastive.exporters.plain import logit_bias
from contrastive.exporters.st_peers import TRAINED
from tests import duals
from tests.exports import HEADS, here, model_of, rows, skip_if_old
from tests.pages import ROOT
from tests.tiny_encoders import SPECS
from tests.toys import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]

TO = "sentence-transformers"


@pytest.fixture
def towers(models):
    """Return a function of head and prompt to the towers of a ViT and a BERT."""

    def make(head="linear", prompt=""):
        text = SPECS["hf-text, BERT, mean"](models).model_copy(update={"prompt": prompt})
        return {
            "image": {"encoder": SPECS["hf-image, ViT, mean"](models), "head": HEADS[head]},
            "text": {"encoder": text, "head": HEADS[head]},
        }

    return make


@pytest.fixture
def model(towers):
    return model_of(towers(), 8)


@pytest.fixture(autouse=True)
def _compared_here(monkeypatch):
    monkeypatch.setattr(verification, "compared", here)


def peer(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# in a process of its own: test_export_onnx; of this program: test_exports
def test_the_command_compares_and_writes_down_what_it_found(model, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("saved")
    ended = command("export", "--to", TO, "-m", "saved", "-o", "out", "--json")
    assert ended.code == 0, ended.err
    assert "saved: holds no data, so generated samples are compared" in ended.err
    said = json.loads(ended.out)
    assert said["samples"] == {"image": 36, "text": 36}
    assert max(said["differences"].values()) <= 1e-5
    about = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert about["differences"] == said["differences"]
    assert about["versions"].keys() >= {TO, "transformers", "torch"}
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["logit_scale"] == pytest.approx(model.scale)
    assert told["logit_bias"] is None
    assert left(tmp_path) == ["out", "saved"]


def test_an_export_that_differs_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "compared", lambda folder, **_: {"image": 0.0, "text": 0.5})
    with pytest.raises(
        WeightsError, match=r"towers\.text: .* differ by 0\.5 .*nothing was written"
    ):
        contrastive.export(model, TO, tmp_path / "out", samples=rows())
    monkeypatch.setattr(verification, "compared", lambda folder, **_: {"image": float("nan")})
    with pytest.raises(WeightsError, match=r"towers\.image: .* differ by nan"):
        contrastive.export(model, TO, tmp_path / "out", samples=rows())
    assert left(tmp_path) == []


def test_the_process_cannot_import_this_package_unless_the_export_is_for_it(tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "verify.py").write_text("import contrastive")
    with pytest.raises(WeightsError, match=r"fails: .*contrastive is not to be imported here; "):
        verification.compared(tmp_path)
    ours = "import contrastive, json; print(json.dumps({'differences': {'text': 0.5}}))"
    (tmp_path / "verify.py").write_text(ours)
    assert verification.compared(tmp_path, without_us=False) == {"text": 0.5}


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DataError,
            "cannot be written: No space",
        ),
        (SafetensorError("I/O error: No space left"), DataError, "cannot be written: I/O error"),
        (Exception("No space left (os error 28)"), DataError, "cannot be written: No space"),
    ],
)
def test_what_ends_an_export_leaves_nothing(error, raised, said, model, tmp_path, monkeypatch):
    def write(model, folder, towers):
        (folder / "half").write_text("x")
        raise error

    monkeypatch.setattr(target, "write", write)
    with pytest.raises(raised, match=said):
        contrastive.export(model, TO, tmp_path / "out", samples=rows())
    assert left(tmp_path) == []


def test_only_an_export_is_replaced(model, tmp_path, command):
    place = tmp_path / "out"
    place.mkdir()
    (place / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"out: is there already, and holds no export\.json"):
        contrastive.export(model, TO, place)
    (place / "mine.txt").unlink()
    contrastive.export(model, TO, place, samples=rows())
    before = left(place)
    (place / "__pycache__").mkdir()
    (place / "__pycache__" / "embed.cpython-311.pyc").write_bytes(b"of a script there")
    contrastive.export(model, TO, place, samples=rows(), keep_samples=False)
    assert set(before) - set(left(place)) == {"verify", "verify.py"}
    (place / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"out: holds mine\.txt, which is not of the export"):
        contrastive.export(model, TO, place)
    assert (place / "mine.txt").read_text() == "x"
    with pytest.raises(DataError, match="is no folder; name another"):
        contrastive.export(model, TO, place / "mine.txt")
    ended = command("export", "--to", TO, "-m", place, "-o", tmp_path / "other")
    assert ended.code == 2
    assert "is an export, which sentence-transformers opens" in ended.err
    for name in (place, f"hf:{place}"):
        with pytest.raises(WeightsError, match=r"an export .*; give what it was made of$"):
            contrastive.load_model(name)
    assert left(tmp_path) == ["out"]


def test_without_samples_nothing_of_the_data_stays(model, tmp_path):
    contrastive.export(model, TO, tmp_path / "out", samples=rows(), keep_samples=False)
    about = json.loads((tmp_path / "out" / "verify.json").read_text())
    assert about["samples"] == {"image": 8, "text": 8}
    assert "dog" not in json.dumps(about)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_verify_finds_what_has_changed(model, tmp_path, monkeypatch):
    import runpy

    from safetensors.numpy import load_file, save_file

    contrastive.export(model, TO, tmp_path / "out", samples=rows())
    assert max(here(tmp_path / "out").values()) <= 1e-5
    kept = tmp_path / "out" / "verify" / "embeddings.safetensors"
    expected = load_file(kept)
    expected["text"][1, 2] += 0.01
    save_file(expected, kept)
    monkeypatch.setattr(sys, "argv", ["verify.py"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tmp_path / "out" / "verify.py"), run_name="__main__")
    assert end.value.code == 1
    about = tmp_path / "out" / "verify.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"samples": {}}))
    with pytest.raises(SystemExit, match="not of the same towers"):
        runpy.run_path(str(tmp_path / "out" / "verify.py"), run_name="__main__")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)  # as where it is not installed
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tmp_path / "out" / "verify.py"), run_name="__main__")
    assert str(end.value.code).endswith("; pip install safetensors")


@pytest.mark.skipif(os.name == "nt", reason="files have no mode there")
def test_all_files_may_be_read_by_whom_the_folder_may(model, tmp_path):
    old = os.umask(0o022)
    try:
        contrastive.export(model, TO, tmp_path / "out", samples=rows())
    finally:
        os.umask(old)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o644"}


@pytest.mark.parametrize("which", ["hf-text, BERT, mean", "hf-text, GPT-2, last"])
def test_lora_is_merged_into_plain_weights(which, models, tmp_path):
    pytest.importorskip("peft")
    lora = {"rank": 2}
    tower = {"encoder": SPECS[which](models), "head": HEADS["mlp"], "frozen": "encoder"}
    model = model_of({"text": tower | {"lora": lora}}, 8)
    plain = model_of({"text": tower}, 8)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.normal_(std=0.5)
    texts = [row["text"] for row in rows()]
    assert (model.embed("text", texts) - plain.embed("text", texts)).abs().max() > 0.01
    exported = contrastive.export(model, TO, tmp_path / "out", samples=rows())
    assert exported.differences["text"] <= 1e-5
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as tensors:
        names = list(tensors.keys())
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert any("lora" in name for name, _ in model.named_parameters())  # it is as it was


def test_a_prompt_stands_before_every_text(towers, tmp_path):
    model = model_of(towers(prompt="the cat "), 8)
    contrastive.export(model, TO, tmp_path / "out", samples=rows())
    theirs, texts = peer(tmp_path / "out"), ["a dog", "on the house", ""]
    assert theirs.default_prompt_name == TRAINED
    for encode in (theirs.encode, theirs.encode_query, theirs.encode_document):
        np.testing.assert_allclose(encode(texts), model.embed("text", texts), atol=1e-5)
    assert abs(theirs.encode(texts, prompt="") - theirs.encode(texts)).max() > 1e-3
    long = ["dog " * 3000]
    np.testing.assert_allclose(theirs.encode(long), model.embed("text", long), atol=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("which", ["hf-image, ViT, mean", "hf-image, CLIP, pooler", "timm", "vit"])
def test_images_of_every_mode_and_shape_are_seen_as_here(which, mode, models, tmp_path_factory):
    skip_if_old(which)
    model, theirs = images_of(which, models, tmp_path_factory)
    for i, size in enumerate([(64, 64), (190, 40), (33, 111)]):
        noise = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        image = Image.fromarray(noise).convert(mode.replace("LA", "L")).convert(mode)
        given = image if which.startswith("hf") else image.convert("RGB")
        expected = model.embed("image", [image]).numpy()
        np.testing.assert_allclose(theirs.encode([given]), expected, atol=1e-5)


def test_what_is_transparent_or_of_16_bits_is_seen_as_here_if_opened_as_the_page_shows(
    models, tmp_path_factory
):
    page = (ROOT / "docs" / "export_sentence_transformers.md").read_text("utf-8")
    shown = re.search(
        r"^import numpy as np\nfrom PIL import ImageOps$.*?^    return seen$", page, re.M | re.S
    )[0]
    names = {"Image": Image}
    exec(shown, names)
    model, theirs = images_of("hf-image, ViT, mean", models, tmp_path_factory)
    place = tmp_path_factory.mktemp("clear") / "clear.png"
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    Image.fromarray(noise).save(place)
    wide = place.with_name("wide.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(wide)
    expected = model.embed("image", [place, wide]).numpy()
    found = theirs.encode([names["open_image"](one) for one in (place, wide)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


IMAGES = {}


def images_of(which, models, factory):
    if which not in IMAGES:
        model = model_of({"image": {"encoder": SPECS[which](models), "head": HEADS["linear"]}}, 8)
        place = factory.mktemp("images") / "out"
        contrastive.export(model, TO, place, samples=rows())
        IMAGES[which] = model, peer(place)
    return IMAGES[which]


def test_the_lines_that_load_an_export_are_python_for_any_folder(tmp_path):
    from contrastive.exporters.targets import TARGETS, usage_of

    place = tmp_path / 'it\'s "mine" \\n é'
    for to in TARGETS:
        tree = ast.parse(usage_of(to, place, ["image", "text"]))
        texts = [x.value for x in ast.walk(tree) if isinstance(x, ast.Constant)]
        assert place.as_posix() in texts


def test_a_text_tower_alone_is_what_servers_of_text_embeddings_read(towers, tmp_path):
    done = contrastive.export(
        model_of(towers(prompt="the "), 8), TO, tmp_path / "out", samples=rows(), tower="text"
    )
    assert done.notes == [
        "text-embeddings-inference reads the folder, too: start it with --dtype float32 "
        "--default-prompt-name trained"
    ]

    def read(name):
        return json.loads((tmp_path / "out" / name).read_text())

    kinds = [
        entry["type"].removeprefix("sentence_transformers.models.")
        for entry in read("modules.json")
    ]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    flags = {
        k: v for k, v in read("1_Pooling/config.json").items() if k.startswith("pooling_mode_")
    }
    assert [name for name, on in flags.items() if on] == ["pooling_mode_mean_tokens"]
    assert len(flags) == 4
    assert read("2_Dense/config.json")["activation_function"] == "torch.nn.modules.linear.Identity"
    assert read("sentence_bert_config.json")["max_seq_length"] == 24
    assert (tmp_path / "out" / "model.safetensors").is_file()
    done = contrastive.export(
        model_of(towers("mlp"), 8), TO, tmp_path / "mlp", samples=rows(), tower="text"
    )
    assert "does not serve it: its Dense layers have Tanh or Identity only" in done.notes[0]


def halves_of_two_widths(folder):
    import transformers

    first, second = duals.save_clip(folder / "first"), duals.save_clip(folder / "second")
    config = transformers.CLIPConfig.from_pretrained(second)
    for part in (config, config.text_config, config.vision_config):
        part.projection_dim = 12
    transformers.CLIPModel(config).save_pretrained(second)
    places = {"image": first, "text": second}
    towers = {
        modality: {
            "encoder": {"type": f"hf-dual-{modality}", "name": str(place)},
            "head": HEADS["linear"],
        }
        for modality, place in places.items()
    }
    return model_of(towers, 8)


@pytest.mark.parametrize(
    ("towers_named", "to", "tower", "said"),
    [
        (
            "toy",
            TO,
            None,
            r"towers\.text: sentence-transformers .*no module for cbow; .* --to onnx or --tower",
        ),
        (
            "bert",
            "transformers",
            None,
            r"towers\.image: .* no place for hf-image, only for .*; possible: --to sentence-trans",
        ),
        (
            "clip",
            "transformers",
            "text",
            r"towers: text alone: .*an image and a text tower; possible: --to onnx$",
        ),
        (
            "clip, mlp",
            "transformers",
            None,
            r"no place for the mlp head.*; possible: --to sentence-transformers",
        ),
        (
            "clips",
            TO,
            None,
            r"halves are of two models that do not fit .*projection.*; possible: --to onnx$",
        ),
        ("clip", TO, "image", r"towers\.image: .*loaded with the other alone; export both"),
        ("bert", "coreml", None, "to: 'coreml' is no target; there are: contrastive, transformers"),
        ("bert", TO, "audio", "no audio tower; it has: image, text"),
    ],
)
def test_what_cannot_be_exported_is_said_with_what_can(
    towers_named, to, tower, said, towers, tmp_path
):
    name, _, head = towers_named.partition(", ")
    if name == "toy":
        model = contrastive.build_model(tiny_model("infonce")).eval()
    elif name == "bert":
        model = model_of(towers(), 8)
    elif name == "clips":
        model = halves_of_two_widths(tmp_path)
    else:
        from tests.test_exports import dual_model

        model = dual_model(duals.save_clip(tmp_path / "clip"), head or "identity")
    with pytest.raises(SpecError, match=said) as error:
        contrastive.export(model, to, tmp_path / "out", samples=rows(), tower=tower)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_sounds_is_refused_before_it_is_written_and_the_remedy_helps(tmp_path):
    sounds = pytest.importorskip("contrastive_audio")
    towers = {"audio": {"encoder": sounds.LogMel(), "head": {"type": "linear"}}}
    spec = {"embed_dim": 4, "towers": towers, "pairs": [("audio", "audio")]}
    model = contrastive.build_model(spec | {"loss": {"type": "infonce"}})
    with pytest.raises(SpecError, match=r"in Python, model\.save\(FOLDER, whole=True\) saves the"):
        contrastive.export(model, "contrastive", tmp_path / "out")
    model.save(tmp_path / "out", whole=True)
    assert contrastive.load_model(tmp_path / "out").spec == model.spec


def test_the_bias_of_a_wrapped_loss_comes_along():
    spec = tiny_model("sigmoid")
    loss = {"type": "matryoshka", "widths": [2, spec["embed_dim"]], "loss": spec["loss"]}
    assert logit_bias(contrastive.build_model(spec | {"loss": loss})) == -10.0
