"""A run whose output is a storage (``s3://bucket/runs/a``): it trains in a folder, which is sent.

What the run writes is sent beside its steps: the log, then each checkpoint, its manifest last; then
those go that are superseded. A storage that fails costs no step: what is not there is sent with the
next checkpoint, and told at the end.

Two runs that write to one place are told apart by a token in it: the one that began last has it,
and the other sends nothing more.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, cast

from contrastive.console import say, tell
from contrastive.data.storage.atomic_files import link
from contrastive.data.storage.file_locks import locked
from contrastive.data.storage.remote_folders import (
    CHECK_STORAGE,
    RemoteFolder,
    StorageError,
    remote_folder,
)
from contrastive.errors import TrainingError, WeightsError
from contrastive.model.remote_models import (
    CHECKPOINTS,
    LOG,
    WAIT,
    fetch_checkpoint,
    fetch_file,
    listed_files,
    short_hash,
)
from contrastive.model.run_checkpoints import checkpoints_of, step_in, superseded
from contrastive.model.saved_files import NAME, Listed, read_json
from contrastive.model.saved_folder import MANIFEST, is_whole
from contrastive.training.background import BackgroundJobs
from contrastive.training.run_token import RunToken
from contrastive.training.tracking import KEPT

if TYPE_CHECKING:
    from collections.abc import Generator

    from contrastive.distributed.ranks import Ranks
    from contrastive.spec.training import KeepSpec

PARTS = (LOG, CHECKPOINTS, "model")
SENDING = ".sending"
"""In the run's folder: links to what is sent, which may be superseded meanwhile."""
SLOW = 5.0  # seconds, after which it is told what the end of a run waits for


def staging_folder(address: str) -> Path:
    """Return the local folder in which a run trains whose output is an address."""
    return Path("runs") / f"{address.rpartition('/')[2] or 'run'}-{short_hash(address)}"


@contextmanager
def sent_to(
    address: str, folder: Path, keep: KeepSpec, ranks: Ranks, left_out: list[str]
) -> Generator[RemoteOutput]:
    """Send, within a block, the folder of a run to a storage.

    Args:
        address: of the output; "" if it is the folder itself, and nothing is sent.
        folder: in which the run trains.
        keep: which checkpoints are kept there, too.
        ranks: of which the main one sends.
        left_out: gets a line for what is not there in the end.

    Raises:
        TrainingError: no library knows such addresses.
        MissingExtra: the one that does is not installed.
    """
    try:
        remote = remote_folder(address) if address else None
    except StorageError as error:
        raise TrainingError(str(error)) from error
    output = RemoteOutput(remote, folder, keep, ranks, left_out)
    with output.jobs:
        try:
            yield output
            output.changed()
        except KeyboardInterrupt:  # whoever asks twice is not kept waiting
            raise
        except BaseException:
            output.close()
            raise
        output.close()


class RemoteOutput:
    """What a run has sent to a storage; without one, it does nothing."""

    def __init__(
        self,
        remote: RemoteFolder | None,
        folder: Path,
        keep: KeepSpec,
        ranks: Ranks,
        left_out: list[str],
    ) -> None:
        """Ask nothing of it yet."""
        self.remote = remote
        self.folder = folder
        self.jobs = BackgroundJobs()
        self._keep = keep
        self._ranks = ranks
        self._left_out = left_out
        self._token: RunToken | None = None
        self._sent: dict[str, bytes] = {}
        """By name, the manifest of each folder that is there as it is here; the size of the log."""
        self._damaged: set[str] = set()
        self._asked = 0
        self._problem = ""
        self._closing = False

    @contextmanager
    def brought(self, *, resume: bool) -> Generator[None]:
        """Find out whether the run can be there; fetch what it goes on from, if that is newer.

        Every rank does, since its machine may have a disk of its own; the main one comes first.
        After the block it has sent what is newer on its disk, for the others to find.

        Raises:
            TrainingError: there is a run already, or none to resume; or the storage cannot be
                written to.
        """
        if self.remote is not None:
            self._bring(self.remote, resume=resume)
        yield
        if self._ranks.size > 1:
            self.changed()
            self.jobs.wait()

    def _bring(self, remote: RemoteFolder, *, resume: bool) -> None:
        try:
            if self._ranks.is_main:
                self._check(remote, resume=resume)
            if resume:
                self._fetch(remote)
            if self._ranks.is_main:
                self._clear()
                self._token = RunToken(remote)
        except StorageError as error:
            msg = f"{error}; {CHECK_STORAGE}, or choose another output"
            raise TrainingError(msg) from error
        except OSError as error:
            msg = f"{error.filename or self.folder}: {error.strerror}; start it in another folder"
            raise TrainingError(msg) from error

    def changed(self) -> None:
        """Send, beside the steps, what is not there yet."""
        if self.remote is None or self._token is None:
            return
        self._asked += 1
        number, remote, token = self._asked, self.remote, self._token

        def job() -> None:
            if number == self._asked and token.is_ours:  # else the next one does it all
                self._send_all(remote, token)

        self.jobs.submit(job)

    def place(self, path: Path) -> str:
        """Return how something in the run's folder is told."""
        if self.remote is None:
            return str(path)
        return f"{self.remote.address}/{path.relative_to(self.folder).as_posix()}"

    def close(self) -> None:
        """Wait for what is being sent; tell what is not there, and let another run begin."""
        if self.remote is None or self._token is None:
            return
        self._closing = True
        line = f"{self.remote.address}: sending what is left"
        told = Timer(SLOW, copy_context().run, (say, line))
        told.daemon = True
        told.start()
        try:
            self.jobs.wait()
        finally:
            told.cancel()
        if lacking := self._lacking():
            why = f" ({self._problem})" if self._problem else ""
            line = (
                f"{self.remote.address}: lacks {', '.join(lacking)}{why}; the run is whole in "
                f"{self.folder}; resume=True (--resume) sends what lacks"
            )
            say(line)
            self._left_out.append(line)
        elif self._sent:
            say(f"{self.remote.address}: has all of the run; a copy is {self.folder}")
        self._clear()
        self._token.release()

    def _check(self, remote: RemoteFolder, *, resume: bool) -> None:
        entries = remote.entries()
        if MANIFEST in entries:
            msg = f"{remote.address}: is a saved model; choose another output"
            raise TrainingError(msg)
        there = any(name in entries for name in PARTS)
        if there and not resume:
            msg = (
                f"{remote.address}: holds a run already; go on with resume=True (--resume), or "
                "choose another output"
            )
            raise TrainingError(msg)
        if resume and not there and not any((self.folder / name).exists() for name in PARTS):
            msg = (
                f"{remote.address}: nothing to resume here; to begin, leave out resume=True "
                "(--resume)"
            )
            raise TrainingError(msg)

    def _fetch(self, remote: RemoteFolder) -> None:
        """Fetch the newest whole checkpoint and the log, unless this disk has a newer one."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.folder.with_name(f".{self.folder.name}.lock"), wait=WAIT):
            here = [path for path in checkpoints_of(self.folder) if is_whole(path)]
            after = step_in(here[-1].name) if here else None
            newest, damaged = fetch_checkpoint(
                remote, self.folder, after=-1 if after is None else after
            )
            self._damaged = {f"{CHECKPOINTS}/{name}" for name in damaged}
            if not here and newest is None:
                for name in damaged:
                    if MANIFEST in (remote / CHECKPOINTS / name).entries():
                        msg = f"{remote.address}: has no whole checkpoint; choose another output"
                        raise TrainingError(msg)
            log = self.folder / LOG
            if (newest or not log.exists()) and LOG in remote.entries():
                fetch_file(remote, LOG, log)
            if (newest or not (self.folder / KEPT).exists()) and KEPT in remote.entries():
                fetch_file(remote, KEPT, self.folder / KEPT)
            if newest:
                self._sent[f"{CHECKPOINTS}/{newest.name}"] = (newest / MANIFEST).read_bytes()
                say(f"{remote.address}: fetched {newest.name} into {self.folder}")

    def _send_all(self, remote: RemoteFolder, token: RunToken) -> None:
        try:
            if other := token.other():
                self._problem = f"{other} writes there"
                say(f"{remote.address}: {self._problem} now; this run sends nothing more")
                return
            self._send_log(remote)
            self._send_kept(remote)
            for path in [*reversed(checkpoints_of(self.folder)), self.folder / "model"]:
                self._send_folder(remote, path)
            self._drop_superseded(remote)
        except (StorageError, OSError, WeightsError) as error:
            self._failed(str(error))
        except Exception as error:  # hours of training are worth more
            tell(error, f"{remote.address}: cannot be sent to")
            self._failed(f"{type(error).__name__}: {error}")
        else:
            if self._problem:
                say(f"{remote.address}: can be written to again, and has what it lacked")
            self._problem = ""

    def _failed(self, problem: str) -> None:
        self._problem = problem
        if not self._closing:
            say(
                f"{problem}; the run goes on in {self.folder}; what lacks is sent with its next "
                "checkpoint"
            )

    def _send_log(self, remote: RemoteFolder) -> None:
        log, copy = self.folder / LOG, self.folder / SENDING / LOG
        if log.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, copy)  # since it grows
            size = str(copy.stat().st_size).encode()
            if self._sent.get(LOG) != size:
                remote.put(copy, LOG)
                self._sent[LOG] = size

    def _send_kept(self, remote: RemoteFolder) -> None:
        """Send what trackers keep, by which those of a resumed run name the run before."""
        if (kept := self.folder / KEPT).exists():
            content = kept.read_bytes()
            if self._sent.get(KEPT) != content:
                remote.put(kept, KEPT)
                self._sent[KEPT] = content

    def _send_folder(self, remote: RemoteFolder, path: Path) -> None:
        """Send a saved folder, if it is not there, or is another there."""
        name = path.relative_to(self.folder).as_posix()
        with self._linked(path) as copy:
            if copy is None or self._sent.get(name) == (manifest := (copy / MANIFEST).read_bytes()):
                return
            self._send_log(remote)  # as it is now: it has the lines that the folder counts
            files, there = listed_files(copy), remote / name
            sizes, known, same = there.entries(), {}, False
            if MANIFEST in sizes and name not in self._damaged:
                known, same = _listed_there(there, copy / "there", manifest)
            rest = [
                file
                for file, about in files.items()
                if known.get(file) != about or sizes.get(file) != about.bytes
            ]
            if rest or not same:
                if MANIFEST in sizes:
                    there.remove(MANIFEST)
                for file in rest:
                    there.put(copy / file, file)
                sizes = there.entries()
                if short := [x for x, about in files.items() if sizes.get(x) != about.bytes]:
                    msg = f"{there.address}/{short[0]}: is of another size there"
                    raise StorageError(msg)
                there.put(copy / MANIFEST, MANIFEST)
        self._sent[name] = manifest
        self._damaged.discard(name)

    @contextmanager
    def _linked(self, path: Path) -> Generator[Path | None]:
        """Keep a saved folder as it is within the block; None if it changes at this moment."""
        copy = self.folder / SENDING / path.name
        copy.mkdir(parents=True, exist_ok=True)
        try:
            try:
                link(path / MANIFEST, copy / MANIFEST)
                for name in listed_files(copy):
                    link(path / name, copy / name)
                same = (path / MANIFEST).read_bytes() == (copy / MANIFEST).read_bytes()
            except FileNotFoundError:  # superseded, or not there yet
                same = False
            yield copy if same else None
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _drop_superseded(self, remote: RemoteFolder) -> None:
        """Remove what the newest checkpoint replaces there, and what was not sent whole before."""
        sent = [x for x in checkpoints_of(self.folder) if f"{CHECKPOINTS}/{x.name}" in self._sent]
        if not sent:
            return
        newest, folder = cast("int", step_in(sent[-1].name)), remote / CHECKPOINTS
        try:
            best = read_json(sent[-1] / "state.json").get("best", {}).get("step")
        except FileNotFoundError:  # it is superseded already
            return
        found = ((step_in(name), name) for name in folder.entries())
        there = {step: name for step, name in found if step is not None and step <= newest}
        whole = {step for step, name in there.items() if MANIFEST in (folder / name).entries()}
        gone = {*superseded(whole, self._keep.last, best), *(there.keys() - whole)}
        for step in sorted(gone):
            try:
                _remove(folder / there[step])
                self._sent.pop(f"{CHECKPOINTS}/{there[step]}", None)
            except StorageError as error:  # the run is there all the same
                say(f"{error}; remove it by hand")

    def _lacking(self) -> list[str]:
        """Return the names of what is here and not there."""
        paths = [*checkpoints_of(self.folder), self.folder / "model"]
        here = {
            path.relative_to(self.folder).as_posix(): (path / MANIFEST).read_bytes()
            for path in paths
            if (path / MANIFEST).exists()
        }
        if (log := self.folder / LOG).exists():
            here[LOG] = str(log.stat().st_size).encode()
        if (kept := self.folder / KEPT).exists():
            here[KEPT] = kept.read_bytes()
        return [name for name, state in here.items() if self._sent.get(name) != state]

    def _clear(self) -> None:
        shutil.rmtree(self.folder / SENDING, ignore_errors=True)


def _listed_there(
    there: RemoteFolder, scratch: Path, manifest: bytes
) -> tuple[dict[str, Listed], bool]:
    """Return what the manifest of a folder there lists, and whether it is this one."""
    scratch.mkdir()
    there.get(MANIFEST, scratch / MANIFEST)
    with suppress(WeightsError):
        return listed_files(scratch), (scratch / MANIFEST).read_bytes() == manifest
    return {}, False


def _remove(folder: RemoteFolder) -> None:
    """Remove a saved folder, its manifest first; what else is in it stays."""
    names = [name for name in folder.entries() if NAME.fullmatch(name)]
    for name in sorted(names, key=lambda name: name != MANIFEST):
        folder.remove(name)
    folder.remove_empty()
