"""``docs/notebook.ipynb`` runs in an empty folder, and stores what it shows: images and tables."""

from __future__ import annotations

import base64
import importlib.util
import io

import pytest
from PIL import Image

from tests.pages import ROOT

pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")

LARGEST = 500_000  # bytes: a page that holds its images


def outputs(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", ())]


def shown(notebook):
    """Return of each cell its source, what it prints, and the types of its results."""
    cells = []
    for cell in notebook.cells:
        found = cell.get("outputs", ())
        printed = "".join(out.text for out in found if out.get("name") == "stdout")
        results = [sorted(out.data) for out in found if out.output_type == "execute_result"]
        images = sum("image/png" in out.get("data", ()) for out in found)
        cells.append((cell.source, cell.get("execution_count"), printed, results, images))
    return cells


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)


@pytest.mark.slow
@pytest.mark.nightly  # tests/test_init.py and the pages of docs run what its cells do
def test_the_notebook_runs_in_an_empty_folder_and_stores_what_it_shows(stored, tmp_path):
    found = importlib.util.spec_from_file_location("executor", ROOT / "docs" / "notebook.py")
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    ran = script.executed(tmp_path)
    assert shown(ran) == shown(stored), "run: python docs/notebook.py"
    assert {path.name for path in tmp_path.iterdir()} <= {"shapes", ".ipython"}


def test_the_stored_notebook_has_images_tables_and_no_error(stored):
    data = [out.get("data", {}) for out in outputs(stored)]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(d["image/png"]))) for d in data if "image/png" in d
    ]
    assert len(pictures) == 4
    assert all(len(picture.convert("RGB").getcolors(1 << 24)) > 5 for picture in pictures)
    tables = [d["text/html"] for d in data if "<table" in d.get("text/html", "")]
    assert sum("R@1" in table for table in tables) == 1  # the report's own
    assert sum("8 epochs" in table for table in tables) == 1  # the comparison's
    assert not [out for out in outputs(stored) if out.output_type == "error"]
    assert (ROOT / "docs" / "notebook.ipynb").stat().st_size < LARGEST
