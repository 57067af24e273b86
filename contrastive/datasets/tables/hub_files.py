"""The Parquet files of a dataset of the Hugging Face hub, downloaded by their revision.

A repository's loading script is not run. What is read are the Parquet files that it has, or into
which the hub converts it.
"""

from __future__ import annotations

from pathlib import Path

from contrastive.config.extras import require
from contrastive.errors import DataError


def hub_folder(repo: str, revision: str) -> Path:
    """Return the folder of a dataset's Parquet files: a local one, or that in the hub's cache.

    ``HF_HOME`` and ``HF_HUB_OFFLINE`` count.

    Raises:
        DataError: the hub cannot be asked; says how to supply the files.
        MissingExtra: ``huggingface_hub`` is not installed.
    """
    folder = Path(repo).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or repo.startswith((".", "~")) or repo.count("/") > 1:
        msg = f"{repo}: no such folder"
        raise DataError(msg)
    hub = require("huggingface_hub", extra="datasets")
    try:
        found = hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns="*.parquet"
        )
    except (OSError, ValueError) as error:
        msg = (
            f"{repo}: its Parquet files at {revision} are neither in the Hugging Face cache nor to "
            f"be had from the hub ({_first_sentence(error)}); run `hf download {repo} --repo-type "
            f"dataset --revision {revision} --include '*.parquet'` on a connected machine and set "
            "HF_HOME to its cache, or give their folder as repo"
        )
        raise DataError(msg) from error
    return Path(found)


def _first_sentence(error: BaseException) -> str:
    """Return the first sentence of what a library says, in one line."""
    line = str(error).strip().partition("\n")[0]
    return line.partition(". ")[0].strip(".: ")[:200] or type(error).__name__
