"""Models on the Hugging Face Hub, by its own conventions: a repository is a saved model, whole.

Only files that the manifest lists, by names that a model has, are ever downloaded.
"""

from __future__ import annotations

import json
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from contrastive.config.arguments import path_of
from contrastive.config.extras import require
from contrastive.config.local_files import read_bounded
from contrastive.config.stored import EXPORT
from contrastive.console import say
from contrastive.data.storage.atomic_files import replace_file
from contrastive.errors import ContrastiveError, MissingExtra, SpecError, WeightsError
from contrastive.model.remote_models import listed_files
from contrastive.model.saved_folder import IN_WORDS, MANIFEST
from contrastive.pretrained import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

PREFIX = "hf"
CARD = "README.md"
LIBRARY = "contrastive-kit"
ALONE = "OWNER/NAME"
"""Stands for a repository that is not known yet."""
NOT_FOUND = 404
OURS = ({MANIFEST, *IN_WORDS}, {EXPORT, "verify.json"})
"""Of these, a repository has one or the other that this package has pushed to."""
OF_MODELS = (".json", ".safetensors", ".onnx", ".py")
"""Of files that are replaced or deleted by a push."""
NOT_THERE = ("EntryNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError")
"""What the Hub says of a repository that is not there, or has something else."""
NO_ANSWER = "see whether the Hub answers (HF_ENDPOINT names it), and try again"
REMEDIES = {
    401: "log in by `hf auth login`, or set HF_TOKEN to a token that may write there",
    403: "set HF_TOKEN to a token that may write there, or give a repository of your own",
    429: "it has had too many requests: try again in some minutes",
}
"""By the status of the Hub's answer."""


class OnHub:
    """What a model can do with the Hub, by the names of its conventions."""

    def save_pretrained(self, folder: str | PathLike[str], *, card: str | None = None) -> None:
        """Save to a folder as it is on the Hub: all weights and files, and a model card.

        Args:
            folder: where to; an older saved model is replaced.
            card: Markdown of the ``README.md``, as of ``model_card``; by default one that says how
                the model is loaded, and that nothing is measured.

        Raises:
            WeightsError: the folder cannot be written; see ``save``.
        """
        place = path_of("folder", folder)
        cast("Any", self).save(place, whole=True)
        write_card(place, card or plain_card(place.name))

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        overrides: Iterable[str] = (),
        trusted: bool = False,
    ) -> Self:
        """Load a model from the Hub, or from a folder, in eval mode on the CPU.

        Args:
            name: ``OWNER/NAME`` of the Hub, or a folder.
            revision: a branch, tag or commit of the repository.
            token: for a private repository; by default the one of ``hf auth login``.
            overrides: changes to its spec, as of ``load_model``.
            trusted: as of ``load_model``.

        Raises:
            WeightsError: there is no model of this package, or it cannot be downloaded.
            SpecError: its spec does not fit; see ``load_model``.
        """
        import contrastive  # whose loader builds this class

        folder = Path(name).expanduser()
        if not folder.is_dir():
            folder = repository(str(name), revision, token)
        return cast("Self", contrastive.load_model(folder, overrides=overrides, trusted=trusted))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload a model of contrastive-kit",
    ) -> str:
        """Save to a repository of the Hub, which is made if need be; return its address.

        Args:
            repo_id: ``OWNER/NAME``.
            card: as of ``save_pretrained``.
            private: whether a new repository is; by default as the owner has it set.
            token: by default the one of ``hf auth login``.
            revision: a branch.
            create_pr: propose the change, rather than make it.
            commit_message: of the upload.

        Raises:
            WeightsError: who is logged in may not write there, or the Hub cannot be reached.
        """
        import tempfile

        repo_id = check_repository(
            repo_id, private=private, token=token, revision=revision, create_pr=create_pr
        )
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model", card=card or plain_card(f"hf:{repo_id}"))
            return upload(
                Path(folder) / "model",
                repo_id,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )


def saved_on_hub(name: str | Path) -> Path | None:
    """Return the folder of ``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION`` or ``hf:FOLDER``.

    None if that is no model of this package, but for instance one of transformers.

    Raises:
        WeightsError: it is one of this package, and cannot be downloaded.
    """
    text = name if isinstance(name, str) else name.as_posix()
    parts = NAME.fullmatch(text)
    if not parts or parts[1] != PREFIX or Path(text).exists():
        return None
    folder = Path(parts[2]).expanduser()
    if folder.is_dir():
        return folder if all((folder / x).exists() for x in (MANIFEST, *IN_WORDS)) else None
    repo_id, _, revision = parts[2].partition("@")
    if _is_of_others(repo_id, revision or None):
        return None
    try:
        return repository(repo_id, revision or None, None)
    except NoModelError:
        return None


def _is_of_others(repo_id: str, revision: str | None) -> bool:
    """Whether the Hub's cache knows a repository as one of transformers: it need not be asked."""
    try:
        hub = require("huggingface_hub", extra="hub")
        config, manifest = (
            isinstance(hub.try_to_load_from_cache(repo_id, name, revision=revision), str)
            for name in ("config.json", MANIFEST)
        )
    except (MissingExtra, ValueError):  # a repository that cannot be: let who loads it say so
        return True
    return config and not manifest


class NoModelError(WeightsError):
    """A repository without a model of this package."""


def repository(repo_id: str, revision: str | None, token: str | None) -> Path:
    """Download a repository of the Hub with a saved model, if need be; return its folder.

    Raises:
        NoModelError: it is not there, or holds something else.
        WeightsError: it cannot be downloaded.
    """
    hub = require("huggingface_hub", extra="hub")
    about: dict[str, Any] = {"revision": revision, "token": token}
    try:
        manifest = Path(hub.hf_hub_download(repo_id, MANIFEST, **about))
        hub.hf_hub_download(repo_id, IN_WORDS[1], **about)
    except _failures(hub) as error:
        raise NoModelError(_not_found(hub, repo_id, error)) from error
    names = [*listed_files(manifest.parent), MANIFEST]
    try:  # of the same commit, whatever has been pushed meanwhile
        about["revision"] = manifest.parent.name
        return Path(hub.snapshot_download(repo_id, allow_patterns=names, **about))
    except _failures(hub) as error:
        msg = f"{repo_id}: cannot be downloaded ({_reason(error)}); try again, it goes on"
        raise WeightsError(msg) from error


def _not_found(hub: Any, repo_id: str, error: BaseException) -> str:
    """Return what to say where no manifest can be had: the Hub has none, or does not answer."""
    nowhere = tuple(getattr(hub.errors, name) for name in NOT_THERE)
    of_hub = isinstance(error, (*nowhere, ValueError)) and not isinstance(
        error, hub.errors.LocalEntryNotFoundError
    )
    if of_hub:
        return (
            f"{repo_id}: no model of this package on the Hub, nor in its cache "
            f"({_reason(error)}); a model of transformers is loaded by hf:{repo_id}"
        )
    return f"{repo_id}: not in the Hub's cache, and not to be had ({_reason(error)}); {NO_ANSWER}"


def check_repository(
    repo_id: str,
    *,
    private: bool | None,
    token: str | None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Make a repository if it is not there, before anything slow is done; return its whole name.

    Args:
        repo_id: ``OWNER/NAME``, or ``NAME`` for one of who is logged in.
        private: whether a new one is.
        token: by default the one of ``hf auth login``.
        revision: the branch that is to be pushed to.
        create_pr: one that is there need not be written to.

    Raises:
        SpecError: its name is none.
        WeightsError: it holds a model that this package has not pushed, or who is logged in may not
            write there, or the Hub cannot be reached.
    """
    hub = require("huggingface_hub", extra="hub")
    api = hub.HfApi(token=token)
    try:
        whole = str(api.create_repo(repo_id, private=private, exist_ok=True).repo_id)
        if not create_pr:  # a repository that was there is let pass without
            _check_write(hub, api, whole)
        there = {*api.list_repo_files(whole, revision=revision)}
    except hub.errors.HFValidationError as error:
        msg = f"{repo_id}: no name of a repository: {_reason(error)}; give OWNER/NAME"
        raise SpecError(msg) from error
    except _failures(hub) as error:
        msg = (
            f"{repo_id}: cannot be made or written on the Hub ({_reason(error)}); {_remedy(error)}"
        )
        raise WeightsError(msg) from error
    foreign = sorted(name for name in there if name.endswith(OF_MODELS))
    if foreign and not create_pr and not any(there >= ours for ours in OURS):
        msg = f"{whole}: holds {foreign[0]}, and nothing that this package has pushed; give"
        raise WeightsError(f"{msg} another repository")
    return whole


def _check_write(hub: Any, api: Any, repo_id: str) -> None:
    try:
        api.auth_check(repo_id, write=True)
    except hub.errors.HfHubHTTPError as error:
        if getattr(getattr(error, "response", None), "status_code", 0) != NOT_FOUND:
            raise  # a mirror may not know the question


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload a model",
) -> str:
    """Upload a folder to a repository that is there; return its address.

    Raises:
        WeightsError: it cannot be uploaded; the folder stays.
    """
    hub = require("huggingface_hub", extra="hub")
    for name in _own_paths(folder):
        say(f"{folder}: names {name}, a path of this machine, which others will read")
    api = hub.HfApi(token=token)
    try:
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr or None,
            commit_message=commit_message,
            ignore_patterns=["*__pycache__*"],  # of a verify.py that has run there
            delete_patterns=_old_files(api, repo_id, revision),
        )
    except RuntimeError as error:  # of one file, which the Hub has not taken
        cause = error.__cause__ or error
        msg = f"{repo_id}: cannot be uploaded ({_reason(cause)}); {_remedy(cause)}"
        raise WeightsError(msg) from error
    except _failures(hub) as error:
        msg = f"{repo_id}: cannot be uploaded ({_reason(error)}); {_remedy(error)}"
        raise WeightsError(msg) from error
    return str(done.pr_url or done.repo_url)


def _old_files(api: Any, repo_id: str, revision: str | None) -> list[str]:
    """Return, as patterns, the files of the model or the export that a repository holds."""
    there = {*api.list_repo_files(repo_id, revision=revision)}
    files: set[str] = set()
    for name, ours in zip((MANIFEST, EXPORT), OURS, strict=True):
        if there >= ours:
            place = Path(api.hf_hub_download(repo_id, name, revision=revision))
            files |= {name, *_listed(place)}
    return [escape(name) for name in sorted(files & there)]


def _listed(place: Path) -> Iterable[str]:
    """Return the files that a manifest or an ``export.json`` names; none if it cannot be read."""
    try:
        if place.name == MANIFEST:
            return listed_files(place.parent)
        files = json.loads(read_bounded(place, 16_000_000))["files"]
        return [name for name in files if isinstance(name, str)]
    except (OSError, ValueError, LookupError, TypeError, ContrastiveError):
        return []


def plain_card(place: str) -> str:
    """Return a model card that says how a model is loaded, and that nothing is measured."""
    return (
        f"---\nlibrary_name: {LIBRARY}\ntags:\n- contrastive-learning\n---\n\n"
        "A model of contrastive-kit. Its card was written without a measurement.\n\n"
        "```python\nfrom contrastive import load_model\n\n"
        f'model = load_model("{place}")\n```\n'
    )


def write_card(folder: Path, card: str) -> None:
    """Write a model card into a folder.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        replace_file(folder / CARD, card.encode())
    except OSError as error:
        msg = f"{folder / CARD}: cannot be written: {error.strerror or error}"
        raise WeightsError(msg) from error


def _own_paths(folder: Path) -> list[str]:
    """Return whole paths that the files in words of a folder name."""
    found: dict[str, None] = {}

    def look(content: Any) -> None:
        if isinstance(content, dict):
            look([*cast("dict[str, Any]", content).values()])
        elif isinstance(content, list):
            for each in cast("list[Any]", content):
                look(each)
        elif isinstance(content, str) and content.startswith(("/", "~")):
            found[content] = None

    for name in (*IN_WORDS, "run.json"):
        try:
            look(json.loads(read_bounded(folder / name, 16_000_000)))
        except (OSError, ValueError, ContrastiveError):
            continue
    return [*found]


def _remedy(error: BaseException) -> str:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    return REMEDIES.get(status, NO_ANSWER)


def _failures(hub: Any) -> tuple[type[Exception], ...]:
    """Return what calls of the Hub raise: its own errors, and the network's, no ``OSError``."""
    late = getattr(hub.errors, "RevisionResolutionError", OSError)  # of huggingface-hub 2
    return (OSError, ValueError, LookupError, late, *hub.errors.HfHubHTTPError.__bases__)


def _reason(error: BaseException) -> str:
    """Return why the Hub did not answer, in one line."""
    cause = error.__cause__ or error.__context__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(cause).__name__
