"""What version 0.1 wrote is still read, resumed and computed, from the files in ``tests/golden``.

Where a test fails, people's models, runs, specs or results are about to break: the code is wrong,
not the files.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from contrastive import load_model
from contrastive.data.content_hash import sample_key  # the one place that says where these live
from contrastive.features.store import Store
from contrastive.nn.fingerprint import weights_fingerprint
from tests.golden.measures import computed, plain_fields

GOLDEN = Path(__file__).parent / "golden" / "0.1"
MADE_WITH_TIMM = "1.0.31"
RENAMED = {"products": "matmul_dtype", "pictures": "class-folders"}
# on a CPU auto is fp32; a run that began with the old default goes on with it
NEW_DEFAULTS = {"matmul_dtype": ("fp32", "auto"), "workers": (2, "auto")}

pytestmark = pytest.mark.filterwarnings("ignore::contrastive.errors.RenamedWarning")
SPECS = sorted((GOLDEN / "specs").iterdir())
CASES = json.loads((GOLDEN / "losses.json").read_text(encoding="utf-8"))


@pytest.fixture
def golden(tmp_path, monkeypatch):
    """Return a copy of the files, in which the test runs: paths in them are relative."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    return folder


def close(now, then):
    """Insist on the same tensors; another CPU or torch rounds otherwise, by about 2e-6."""
    torch.testing.assert_close(now, then, rtol=1e-4, atol=2e-5)


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def steps(run):
    """Return the figures of each step of a run, one tensor a figure."""
    lines = [line for line in log(run) if "loss" in line]
    return {name: torch.tensor([line[name] for line in lines]) for name in lines[0]}


def pictures():
    return sorted((GOLDEN / "data" / "pictures").iterdir())[:4]


def texts():
    return json.loads((GOLDEN / "texts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["model", "frozen"])
def test_a_saved_model_loads_and_embeds_as_it_did(golden, name):
    model = load_model(golden / name)
    then = load_file(golden / "embeddings.safetensors")
    now = {
        f"{name}.{modality}": model.embed(modality, samples)
        for modality, samples in {"image": pictures(), "text": texts()}.items()
    }
    close(now, {key: then[key] for key in now})


def test_a_frozen_encoder_that_is_not_saved_is_known_by_its_fingerprint(golden):
    weights = load_file(golden / "frozen" / "model.safetensors")
    assert not any(name.startswith("towers.image.encoder.") for name in weights)
    saved = json.loads((golden / "frozen" / "parts.json").read_text())["encoders"]
    encoder = load_model(golden / "frozen").tower("image").encoder
    assert saved == {"image": weights_fingerprint(encoder)}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_weights_of_the_run_that_was_not(golden, command):
    data = (golden / "data").rename(golden / "moved")
    spec = golden / "run.yaml"
    ended = command("train", spec, f"data.folder={data}", "--output", golden / "run", "--resume")
    assert ended.code == 0, ended.err
    assert "resumed at step 6 of 12" in ended.err
    both = golden / "run", golden / "finished"
    close(*(load_file(run / "model" / "model.safetensors") for run in both))
    close(*(steps(run) for run in both))
    now, then = ([list(line) for line in log(run)] for run in both)
    assert now == then


@pytest.mark.slow
@pytest.mark.skipif(
    version("timm") != MADE_WITH_TIMM, reason="timm draws the initial weights, by version"
)
def test_a_new_run_takes_the_steps_that_it_took(golden, command):
    """Initial weights, the order of rows, augmentation, dropout and the loss are as they were."""
    ended = command("train", golden / "run.yaml", "--output", golden / "new")
    assert ended.code == 0, ended.err
    close(steps(golden / "new"), steps(golden / "finished"))


@pytest.mark.parametrize(
    ("run", "steps", "evaluations", "codes"),
    [("run", 6, 1, []), ("finished", 12, 3, []), ("ailing", 12, 3, ["ignored-groups"])],
)
def test_the_doctor_reads_the_log_of_a_run(golden, command, run, steps, evaluations, codes):
    ended = command("doctor", run, "--json")
    assert ended.code == (1 if codes else 0), ended.err
    told = json.loads(ended.out)
    assert (told["steps"], told["evaluations"]) == (steps, evaluations)
    assert [finding["code"] for finding in told["findings"]] == codes


def test_a_run_knows_the_pictures_that_it_has_seen(golden, command):
    """A model keeps hashes of them, so that a copy in the test split is found."""
    table = (golden / "data" / "captions.csv").read_text().splitlines()
    for name in [line.partition(",")[0] for line in table if line.endswith(",test")]:
        shutil.copy(golden / "data" / "pictures" / "green-circle.png", golden / "data" / name)
    ended = command("doctor", "finished", "--json")
    assert [finding["code"] for finding in json.loads(ended.out)["findings"]] == ["leak"]


def test_a_run_can_be_evaluated_from_its_folder(golden, command):
    ended = command(
        "evaluate", "--model", "finished", "--split", "val", "--device", "cpu", "--json"
    )
    assert ended.code == 0, ended.err
    then = next(line for line in reversed(log(golden / "finished")) if "evaluation" in line)
    now = json.loads(ended.out)
    for way, figures in then["evaluation"]["retrieval"].items():
        assert now["retrieval"][way]["recall"] == figures["recall"]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_a_spec_means_what_it_meant(path, command):
    """The dump of a spec is a spec too; fields that came later have their defaults."""
    checked = command("--no-plugins", "validate", path, "--json")
    assert checked.code == 0, checked.err
    then = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    now = json.loads(checked.out)
    assert common(old_defaults(now), names_of_today(then)) == names_of_today(then)


def names_of_today(then):
    """Return plain data with the new names of its fields and of its components."""
    if not isinstance(then, dict):
        return then
    now = {RENAMED.get(key, key): names_of_today(value) for key, value in then.items()}
    return now | ({"type": RENAMED.get(now["type"], now["type"])} if is_name(now) else {})


def old_defaults(now):
    """Return plain data with the defaults of then, where they are now others."""
    if not isinstance(now, dict):
        return now
    then = {key: old_defaults(value) for key, value in now.items()}
    for key in NEW_DEFAULTS.keys() & then.keys():
        old, new = NEW_DEFAULTS[key]
        match then[key]:
            case {"default": default, "enum": choices, **rest}:  # in a schema
                assert default == new
                then[key] = rest | {"default": old, "enum": [x for x in choices if x != new]}
            case {"default": default, "anyOf": [choice, {"const": name}], **rest}:
                assert default == name == new
                then[key] = rest | choice | {"default": old}
            case value:
                then[key] = old if value == new else value
    return then


def is_name(fields):
    return isinstance(fields.get("type"), str)


def common(now, then):
    """Return what ``now`` says, without the keys of mappings that ``then`` does not know."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {key: common(now[key], then[key]) for key in now.keys() & then.keys()}
    return now


@pytest.mark.slow
def test_every_field_has_the_name_the_type_and_the_default_that_it_had(command):
    described = command("--no-plugins", "schema")
    assert described.code == 0, described.err
    then = json.loads((GOLDEN / "fields.json").read_text(encoding="utf-8"))
    then = names_of_today(then)
    now = old_defaults(plain_fields(json.loads(described.out)))
    assert now["section"].pop("KeepSpec")  # sections that are new
    assert now["section"].pop("ParallelSpec")
    assert now.pop("tracker")  # a kind that is new
    assert all(now["dataset"].pop(name) for name in ("mix", "table", "webdataset"))
    new = {
        (kind, name, field): about
        for kind, components in now.items()
        for name, fields in components.items()
        for field, about in fields.items()
        if field not in then[kind][name]
    }
    assert not any("required" in about for about in new.values())
    for kind, name, field in new:
        del now[kind][name][field]
    for name, section in now["section"].items():  # whose default has new fields too
        for field, about in section.items():
            if "default" in about:
                about["default"] = common(about["default"], then["section"][name][field]["default"])
    for loss in ("dcl", "supcon"):
        assert now["loss"][loss]["execution"]["enum"].pop() == "fused"  # a choice that is new
    assert now["section"]["TrainingSpec"]["precision"]["enum"].pop() == "fp16"
    assert unbounded(now) == unbounded(then)


def unbounded(schema):
    """Return a schema without the bounds of numbers, which a release may set closer."""
    if isinstance(schema, list):
        return [unbounded(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    return {name: unbounded(part) for name, part in schema.items() if name not in bounds}


@pytest.mark.parametrize("modality", ["image", "text"])
def test_features_on_disk_are_found_and_read(golden, modality):
    samples = {"image": pictures(), "text": texts()}[modality]
    then = load_file(golden / "features" / "expected.safetensors")[modality]
    model = load_model(golden / "model")
    fingerprint = weights_fingerprint(model.tower(modality).encoder)
    paths = (golden / "features").glob("*/*/encoder.json")
    (about,) = [a for p in paths if (a := json.loads(p.read_text()))["weights"] == fingerprint]
    store = Store(golden / "features" / "features", about)
    keys = b"".join(sample_key(sample, modality) for sample in samples)
    rows = store.find(np.frombuffer(keys, np.uint8).reshape(-1, 32))
    assert torch.equal(torch.tensor(store.features(0)[rows]), then)


@pytest.mark.parametrize("case", CASES, ids=lambda case: json.dumps(case)[:70])
def test_a_loss_has_the_value_and_the_gradients_that_it_had(case):
    now = computed(case)
    assert now["value"] == pytest.approx(case["value"], rel=1e-6, abs=1e-6)
    assert now["gradients"] == pytest.approx(case["gradients"], rel=1e-6, abs=1e-6)
