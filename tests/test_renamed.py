"""Names of release 0.1: they work, each use says what it is called now and where, and specs, runs
and models are upgraded by one command.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from contrastive import build_model, load_model, load_spec
from contrastive.errors import RenamedWarning, SpecError
from contrastive.losses import InfoNCE, Queue, Sigmoid
from contrastive.losses.execution import infonce

GOLDEN = Path(__file__).parent / "golden" / "0.1"
OLD = """\
# A model of 0.1.
embed_dim: 8
towers:   # small
    text: {encoder: {type: cbow}, head: {type: linear}}
loss:
    {type: queue, size: 8, "loss": {'type': infonce, "products" : bf16}}   # faster
pairs: [[text, text]]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", [InfoNCE, Sigmoid])
def test_a_field_by_its_old_name_is_told_with_the_line_that_uses_it(kind):
    with pytest.warns(RenamedWarning, match="products is now matmul_dtype") as told:
        config = kind(products="bf16")
    assert config == kind(matmul_dtype="bf16")
    assert told[0].filename == __file__
    with pytest.warns(RenamedWarning):
        assert config.products == "bf16"
    with pytest.warns(RenamedWarning):
        assert config.model_copy(update={"products": "auto"}) == kind()


def test_a_value_under_an_old_name_is_checked_and_both_names_are_refused():
    wrong = pytest.raises(SpecError, match="matmul_dtype: Input should be 'auto', 'fp32'")
    with pytest.warns(RenamedWarning), wrong:
        InfoNCE(products="fp8")
    with pytest.raises(SpecError, match="products is now matmul_dtype, which is given too"):
        InfoNCE(products="bf16", matmul_dtype="bf16")
    with pytest.raises(AttributeError, match="fields"):
        InfoNCE().fields  # noqa: B018


def test_a_parameter_by_its_old_name_is_told_with_the_line_that_uses_it():
    x = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    with pytest.warns(RenamedWarning, match="infonce: products is now matmul_dtype") as told:
        loss = infonce(x, x, log_scale=1.0, execution="chunked", products="bf16")
    assert told[0].filename == __file__
    assert loss == infonce(x, x, log_scale=1.0, execution="chunked", matmul_dtype="bf16")
    with pytest.raises(TypeError, match="given too"):
        infonce(x, x, log_scale=1.0, products="bf16", matmul_dtype="bf16")


def test_a_spec_with_old_names_works_and_is_told_with_file_and_line(here, command):
    (here / "old.yaml").write_text(OLD)
    done = command("validate", "old.yaml", "--json")
    assert done.code == 0
    assert done.err == (
        "old.yaml:6: loss.loss.products is now loss.loss.matmul_dtype; "
        "run: contrastive validate --upgrade old.yaml\n"
    )
    loss = json.loads(done.out)["loss"]["loss"]
    assert loss["matmul_dtype"] == "bf16"
    assert "products" not in loss

    done = command("validate", "old.yaml", "loss={type: sigmoid}", "loss.products=bf16")
    assert done.err == "override 'loss.products=bf16': loss.products is now loss.matmul_dtype\n"


def test_a_spec_is_upgraded_and_keeps_its_comments_and_layout(here, command):
    old = here / "old.yaml"
    old.write_bytes(b"\xef\xbb\xbf" + OLD.replace("\n", "\r\n").encode())
    done = command("validate", "--upgrade", "old.yaml", "-o", "new.yaml")
    assert done.code == 0
    assert "of release 0.1" in done.out
    assert done.err == ""
    assert (here / "new.yaml").read_bytes() == old.read_bytes().replace(
        b'"products"', b'"matmul_dtype"'
    )
    with warnings.catch_warnings(action="error"):
        new = load_spec(here / "new.yaml")
    assert new.loss == Queue(size=8, loss=InfoNCE(matmul_dtype="bf16"))

    again = command("validate", "--upgrade", "new.yaml")
    assert again.out == "new.yaml: has the names of this release\n"
    assert command("validate", "--upgrade", "old.yaml").code == 0
    assert old.read_bytes() == (here / "new.yaml").read_bytes(), "in place"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"products"', '"matmul_dtype"'),
        ("'products'", "'matmul_dtype'"),
        ("? products\n     ", "? matmul_dtype\n     "),
        ("&key products", "&key matmul_dtype"),
        ("!!str products", "!!str matmul_dtype"),
        ('"pro\\u0064ucts"', '"matmul_dtype"'),
    ],
)
def test_an_upgraded_key_is_written_as_it_was(here, command, old, new):
    text = OLD.replace('"products"', old)
    (here / "old.yaml").write_text(text)
    assert command("validate", "--upgrade", "old.yaml").code == 0
    assert (here / "old.yaml").read_text() == text.replace(old, new)


def test_an_upgraded_json_file_is_json(here, command):
    text = json.dumps(load_spec(GOLDEN / "model.yaml").model_dump(mode="json"))
    (here / "old.json").write_text(text.replace("matmul_dtype", "products"))
    assert command("validate", "--upgrade", "old.json").code == 0
    assert (here / "old.json").read_text() == text


def test_an_upgrade_keeps_links_and_modes_and_overwrites_files_alone(here, command):
    (here / "old.yaml").write_text(OLD)
    (here / "old.yaml").chmod(0o640)
    (here / "link.yaml").symlink_to("old.yaml")
    os.mkfifo(here / "pipe")
    (here / "folder").mkdir()
    for output, told in {
        "folder": "folder: is a folder",
        "pipe": "pipe: is no file",
        "no/new.yaml": "no/new.yaml: there is no folder no",
    }.items():
        done = command("validate", "--upgrade", "old.yaml", "-o", output)
        assert done.code == 2
        assert told in done.err
        assert (here / "pipe").is_fifo()
    assert command("validate", "--upgrade", "link.yaml").code == 0
    assert (here / "link.yaml").is_symlink()
    assert "matmul_dtype" in (here / "old.yaml").read_text()
    assert (here / "old.yaml").stat().st_mode & 0o777 == 0o640
    done = command("validate", "--upgrade", "old.yaml", "-o", "new.yaml")
    assert "new.yaml is not written" in done.out


@pytest.mark.parametrize("name", ["finished", "run", "model"])
def test_a_run_and_a_model_of_0_1_are_upgraded_by_one_command(here, command, name):
    shutil.copytree(GOLDEN, here / "golden")
    folder = here / "golden" / name
    told = command("validate", folder)
    assert told.code == 0
    assert "products is now" in told.err
    assert "spec.json:" in told.err or "run.json:" in told.err
    with pytest.warns(RenamedWarning):
        before = load_model(folder).state_dict()
    weights = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}

    done = command("validate", "--upgrade", folder)
    assert done.code == 0, done.err
    assert "of release 0.1.0: " in done.out
    assert done.err == ""
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == weights
    with warnings.catch_warnings(action="error"):
        after = load_model(folder).state_dict()
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    for spec in folder.rglob("spec.json"):
        assert "products" not in spec.read_text()
    assert command("validate", "--upgrade", folder).out.endswith("has the names of this release\n")
    assert command("validate", folder).err == ""


def test_an_upgrade_of_what_is_damaged_or_is_no_spec_changes_nothing(here, command):
    folder = shutil.copytree(GOLDEN / "model", here / "model")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "model.safetensors").write_bytes(b"other")
    refused = command("validate", "--upgrade", folder)
    assert refused.code == 2
    assert "damaged" in refused.err
    assert (folder / "spec.json").read_bytes() == before[folder / "spec.json"]

    (here / "bad.yaml").write_text(OLD.replace("bf16", "fp8"))
    refused = command("validate", "--upgrade", "bad.yaml")
    assert refused.code == 2
    assert "bad.yaml:6: loss.loss.matmul_dtype: Input should be" in refused.err
    assert (here / "bad.yaml").read_text() == OLD.replace("bf16", "fp8")
    assert command("validate", "--upgrade", here / "nothing").code == 2
    assert command("validate", "--upgrade", "bad.yaml", "seed=1").code == 2
    assert command("validate", "bad.yaml", "-o", "new.yaml").code == 2


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("probe --on embeddings", "the option --on is now --inputs"),
        ("probe --on=embeddings", "the option --on is now --inputs"),
        ("probe --picture curve.png --shots 1", "the option --picture is now --plot"),
        ("evaluate --spec toy.yaml", "the option --spec is now --data"),
        ("compare a b --spec toy.yaml", "the option --spec is now --data"),
        ("search cat --by text", "the option --by is now --query-modality"),
        ("pairs tests.jsonl", "the verb pairs is now compositional"),
        ("plugins new Bad. --kind head --folder x", "the option --folder is now --output"),
    ],
)
def test_verbs_and_options_work_by_their_old_names(here, command, typed, told):
    done = command(*typed.split())
    first, *rest = done.err.splitlines()
    assert first == told
    assert "no such option" not in done.err.lower()
    assert rest, "here is no model, so that the verb stops, at its own checks"


def test_an_argument_after_two_dashes_is_no_option(here, command):
    done = command("search", "--", "--by")
    assert "is now" not in done.err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "evaluate runs/clip",
            "evaluate: 'runs/clip' is one argument too many; a model is given by "
            "--model runs/clip\n",
        ),
        (
            "schema run",
            "schema: 'run' is one argument too many; leave it out; where it writes is given by "
            "--output\n",
        ),
    ],
)
def test_an_argument_too_many_is_one_line_with_the_remedy(here, command, typed, told):
    done = command(*typed.split())
    assert (done.code, done.err) == (2, told)


def test_the_schema_knows_old_names_as_deprecated(command):
    schema = json.loads(command("schema", "--of", "model").out)
    found = [part for part in _parts(schema) if "products" in part]
    assert found
    for properties in found:
        assert properties["products"]["deprecated"]
        assert properties["products"]["enum"] == properties["matmul_dtype"]["enum"]
        assert "deprecated" not in properties["matmul_dtype"]


def _parts(node):
    """Yield every mapping in a schema."""
    match node:
        case dict():
            yield node
            inner = node.values()
        case list():
            inner = node
        case _:
            inner = ()
    for one in inner:
        yield from _parts(one)


def test_an_old_name_in_a_dict_is_told_with_the_line_that_gives_it():
    tower = {"encoder": {"type": "cbow"}, "head": {"type": "linear"}}
    spec = {"towers": {"text": tower}, "pairs": [["text", "text"]]}
    loss = {"type": "infonce", "products": "bf16"}
    with pytest.warns(RenamedWarning) as told:
        model = build_model(spec | {"loss": loss})
    assert model.spec.loss == InfoNCE(matmul_dtype="bf16")
    assert told[0].filename == __file__
