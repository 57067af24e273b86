"""Execute ``notebook.ipynb`` in an empty folder and store what its cells show in it.

python docs/notebook.py
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_suffix(".ipynb")


def executed(folder: Path) -> nbformat.NotebookNode:
    """Return the notebook with what its cells show when they run in a folder.

    Raises:
        CellExecutionError: a cell raised; says which and what.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    env = os.environ | {
        "IPYTHONDIR": str(folder / ".ipython"),
        "OMP_NUM_THREADS": "1",  # the networks are too small to share
        "PYTHONWARNINGS": "ignore:IProgress not found",  # ipywidgets, which other libraries want
    }
    NotebookClient(notebook, resources=resources, record_timing=False).execute(env=env)
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(Path(folder)), NOTEBOOK)
