"""What finds candidates without comparing a query with every vector, by backend.

Whatever a structure finds is scored again with the exact vectors: it can miss a row, and gives none
a wrong score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from contrastive.errors import SpecError
from contrastive.indexes.faiss_codes import faiss_module
from contrastive.indexes.faiss_hnsw import FaissHnsw
from contrastive.indexes.faiss_ivf import FaissIvf
from contrastive.indexes.index_file import BACKENDS, Small
from contrastive.indexes.small_vectors import SmallVectors
from contrastive.indexes.vector_form import Form, checked_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from contrastive.indexes.index_file import About


class OpenStructure(Protocol):
    """A structure that is searched. Q queries, M rows, D wide, K candidates."""

    def candidates(
        self, queries_QD: Tensor, wanted: int, allowed_M: Tensor | None, effort: int
    ) -> tuple[Tensor, Tensor]:
        """Return candidates, best first: their scores as this one sees them, and their numbers.

        Args:
            queries_QD: L2-normalised.
            wanted: how many results are asked for.
            allowed_M: which rows may be found; None for all.
            effort: one of the kind's: more finds more, and takes longer.

        Returns:
            Scores and numbers ``[Q, K]``; a candidate that is none scores -inf.
        """
        ...


class Kind(Protocol):
    """How structures of a backend are made and opened."""

    @property
    def name(self) -> str:
        """Stands in the names of their files."""
        ...

    @property
    def most_segments(self) -> int:
        """How many segments a structure covers at most."""
        ...

    @property
    def fewest_rows(self) -> int:
        """Of how many rows one is worth making; fewer are compared one by one."""
        ...

    @property
    def efforts(self) -> Sequence[int]:
        """What a search may take, from the least on."""
        ...

    def pays(self, queries: int, rows: int, wanted: int, effort: int) -> bool:
        """Whether such a search takes less time than comparing all rows does."""
        ...

    def build(
        self, pieces: Sequence[Tensor], advance: Callable[[int, str], None]
    ) -> dict[str, Tensor]:
        """Return the tensors of a structure of vectors ``[M, D]``, which lie in several pieces.

        ``advance`` is told how many rows are done.
        """
        ...

    def open(self, tensors: dict[str, Tensor], pieces: Sequence[Tensor]) -> OpenStructure:
        """Open what ``build`` has returned for the same vectors.

        Raises:
            DataError: these are not what it returns: the file may be anybody's.
        """
        ...


FAISS: dict[str, Kind] = {"faiss": FaissHnsw(), "faiss-ivf": FaissIvf()}


def kind_of(about: About) -> Kind | None:
    """Return the kind of an index's structures; None where every vector is compared."""
    if about.small:
        return SmallVectors(Form(about.small.dim, about.small.quantize))
    return FAISS.get(about.backend)


def check_installed(backend: str | None) -> None:
    """Check that what a backend needs is there.

    Raises:
        MissingExtra: it is not installed.
    """
    if backend in FAISS:
        faiss_module()


def checked_small(width: int, backend: Any, dim: Any, quantize: Any) -> Small | None:
    """Return the form of small copies, if vectors of this width are to have them.

    Raises:
        MissingExtra: what the backend needs is not installed.
        SpecError: there is no such backend, or it has no such copies.
    """
    if backend is not None and backend not in BACKENDS:
        msg = f"backend is {backend!r}; give {' or '.join(map(repr, BACKENDS))}"
        raise SpecError(msg)
    check_installed(backend)
    form = checked_form(width, dim, quantize)
    if quantize is None and form.dim == width:
        return None
    if backend not in (None, "exact"):
        name = "dim" if quantize is None else "quantize"
        msg = f"{name}: the backend {backend} has no small copies; leave it out, or take exact"
        raise SpecError(msg)
    return Small(dim=form.dim or width, quantize=quantize)
