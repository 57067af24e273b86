"""A saved model whose plugin is gone says which package, which version, and what to run."""

from __future__ import annotations

import json
import sys

import pytest

from contrastive import RunSpec, build_model, load_model
from contrastive.components import REGISTRIES
from contrastive.config.provenance import origins
from contrastive.errors import ContrastiveError, SpecError, WeightsError
from contrastive.model import saved_folder
from contrastive.training.checkpoints import run_files

MODEL = {
    "embed_dim": 8,
    "towers": {
        "image": {
            "encoder": {"type": "resnet", "width": 8, "image_size": 32},
            "head": {"type": "lost-head"},
        },
        "text": {"encoder": {"type": "cbow", "width": 8}, "head": {"type": "linear"}},
    },
    "loss": {"type": "queue", "size": 4, "loss": {"type": "infonce"}},
}
LOST = {"package": "contrastive-lost", "version": "2.0"}
UNKNOWN = "towers.image.head: unknown head 'lost-head'; it was saved with contrastive-lost 2.0"


@pytest.fixture
def saved(site, tmp_path, monkeypatch):
    """Save the model of a run whose head and dataset are a plugin's; then uninstall that."""
    forget()  # what is installed may have been listed before, without the plugin
    with monkeypatch.context() as patch:
        patch.syspath_prepend(site("lost"))
        run = RunSpec.model_validate({"model": MODEL, "data": {"type": "lost-data"}})
        saved_folder.write_folder(tmp_path / "m", run_files(run, build_model(run), tmp_path / "m"))
    forget()
    yield tmp_path / "m"
    forget()


def forget():
    sys.modules.pop("contrastive_lost", None)
    for registry in REGISTRIES:
        vars(registry).pop("installed", None)


def rewrite(folder, name, change):
    """Change a JSON file of a saved model, as an older or another program would have it."""
    old = saved_folder.open_folder(folder)
    tensors = {file for file in old.files if file.endswith(".safetensors")}
    written = {file: old.tensors(file) for file in tensors}
    written |= {file: old.json(file) for file in old.files - tensors}
    change(written[name])
    saved_folder.write_folder(folder, written)


def install(folder, monkeypatch, version):
    """Install a release of the package that offers nothing."""
    info = folder / f"contrastive_lost-{version}.dist-info"
    info.mkdir(parents=True)
    about = f"Metadata-Version: 2.4\nName: contrastive-lost\nVersion: {version}\n"
    (info / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(folder)


def test_a_saved_model_knows_the_package_of_every_part(saved):
    parts = json.loads((saved / "parts.json").read_text())
    core = {"package": "contrastive-kit", "version": "0.1.0"}
    assert parts["components"] == {
        "encoder": {"resnet": core, "cbow": core},
        "head": {"lost-head": LOST, "linear": core},
        "loss": {"queue": core, "infonce": core},
        "dataset": {"lost-data": LOST},
    }
    assert parts["packages"] == {"contrastive-kit": "0.1.0", "contrastive-lost": "2.0"}


def test_parts_within_parts_have_their_package_too(installed):
    installed("good")
    from contrastive_good.towers import GoodImage, Wrapper

    good = {"package": "contrastive-good", "version": "1.2.0"}
    found = origins(Wrapper(base=Wrapper(base=GoodImage())))
    assert found == {"encoder": {"good-wrapper": good, "good-image": good}}


def test_a_missing_plugin_is_named_with_its_version_and_the_command(saved):
    with pytest.raises(SpecError) as caught:
        load_model(saved)
    run = "which is not installed; run: pip install contrastive-lost==2.0"
    assert str(caught.value) == f"{saved / 'spec.json'}: {UNKNOWN}, {run}"


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        ({"dir_info": {"editable": True}}, "a folder; bring that here and run: pip install FOLDER"),
        ({"archive_info": {}}, "a file; bring that here and run: pip install FILE"),
        (
            {"vcs_info": {"vcs": "git"}},
            "a repository; bring that here and run: pip install git+URL",
        ),
        ({"unknown": 3}, ""),
    ],
)
def test_a_plugin_that_is_from_no_index_is_not_looked_for_in_one(
    site, tmp_path, monkeypatch, installed, told
):
    forget()
    folder, place = site("lost"), tmp_path / "m"
    direct = folder / "contrastive_lost-2.0.dist-info" / "direct_url.json"
    direct.write_text(json.dumps({"url": "file:///home/me/lost"} | installed))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        build_model(MODEL).save(place)
    forget()
    how = f"there it came from {told}" if told else "run: pip install contrastive-lost==2.0"
    with pytest.raises(SpecError) as caught:
        load_model(place)
    assert str(caught.value).endswith(f"which is not installed; {how}")
    # beside another mistake, too
    rewrite(place, "spec.json", lambda spec: spec["towers"]["image"].pop("head"))
    with pytest.raises(SpecError) as caught:
        load_model(place)
    assert str(caught.value).endswith(f"(it was saved with contrastive-lost 2.0; {how})")
    assert "/home/me" not in (place / "parts.json").read_text()
    forget()


def test_so_is_that_of_the_data_of_a_run(saved, command):
    ended = command("evaluate", "--model", saved)
    assert ended.code == 2
    lines = ended.err.splitlines()
    assert len(lines) == 2, "the head and the dataset"
    for line in lines:
        assert line.endswith("which is not installed; run: pip install contrastive-lost==2.0")
    assert "data: unknown dataset 'lost-data'; it was saved with" in lines[1]


def test_another_version_that_lacks_the_component_is_told_of(saved, tmp_path, monkeypatch):
    install(tmp_path / "newer", monkeypatch, "3.0")
    with pytest.raises(SpecError) as caught:
        load_model(saved)
    run = "3.0 is installed and lacks it; run: pip install contrastive-lost==2.0"
    assert str(caught.value) == f"{saved / 'spec.json'}: {UNKNOWN}, {run}"


def test_another_version_that_has_the_component_is_no_error(saved, site, monkeypatch):
    folder = site("lost")
    old = folder / "contrastive_lost-2.0.dist-info"
    metadata = (old / "METADATA").read_text().replace("2.0", "2.5")
    (old / "METADATA").write_text(metadata)
    old.rename(folder / "contrastive_lost-2.5.dist-info")
    monkeypatch.syspath_prepend(folder)
    forget()
    assert load_model(saved).embed("text", ["a"]).shape == (1, 8)


def test_another_version_with_other_fields_shows_both_versions(saved, site, monkeypatch):
    rewrite(saved, "spec.json", lambda spec: spec["towers"]["image"]["head"].update(width=3))
    rewrite(
        saved, "parts.json", lambda parts: parts["packages"].update({"contrastive-lost": "1.0"})
    )
    monkeypatch.syspath_prepend(site("lost"))
    forget()
    with pytest.raises(SpecError) as caught:
        load_model(saved)
    assert "towers.image.head.width: unknown field; it has no fields" in str(caught.value)
    assert str(caught.value).endswith("(it was saved with contrastive-lost 1.0; installed is 2.0)")


def test_a_model_of_an_older_release_names_the_missing_package(saved):
    rewrite(saved, "parts.json", lambda parts: parts.pop("components"))
    with pytest.raises(SpecError) as caught:
        load_model(saved)
    assert str(caught.value).endswith(
        "(it was saved with contrastive-lost 2.0; run: pip install contrastive-lost==2.0)"
    )


@pytest.mark.parametrize("package", ["--index-url=http://evil", "a b", "x; rm -rf ~", "", "a\nb"])
def test_what_is_no_package_is_not_put_into_a_command(saved, package):
    def poison(parts):
        parts["components"]["head"]["lost-head"]["package"] = package
        parts["packages"] = {package: "1.0"}

    rewrite(saved, "parts.json", poison)
    with pytest.raises(ContrastiveError) as caught:
        load_model(saved)
    assert "pip install" not in str(caught.value)
    assert "unknown head 'lost-head'; " in str(caught.value)


@pytest.mark.parametrize("components", [None, [], {"head": 3}, {"head": {"lost-head": "x"}}])
def test_components_of_another_shape_are_one_line(saved, components):
    rewrite(saved, "parts.json", lambda parts: parts.update(components=components))
    with pytest.raises(WeightsError, match=r"parts\.json: cannot be read: components"):
        load_model(saved)
