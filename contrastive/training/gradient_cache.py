"""Large batches: the towers take a few rows at a time, the loss sees all of them.

The activations of one micro-batch are held, whatever the batch; the gradients are those of the
whole batch. That is gradient caching (Gao, Zhang, Han and Callan 2021, "Scaling Deep Contrastive
Learning Batch Size under Memory Limited Setup", arXiv:2101.06983): a first pass gives all
embeddings, the loss their gradients, and a second pass those of the weights. Here the second pass
is autograd's: each micro-batch is a checkpoint, computed again when its gradients arrive. So the
loss may be any function of the embeddings, by any execution and on any number of ranks, and
``loss.backward()`` is all that it takes.

Shapes: B samples, R rows of a micro-batch, D the embedding's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from contrastive.distributed.sharding import most_passes
from contrastive.errors import TrainingError
from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from contrastive.model.model import ContrastiveModel

Inputs = dict[str, Tensor]
Convert = Callable[[Mapping[str, Tensor]], Inputs]
BatchNormMode = Literal["train", "eval"]


def forward_in_micro_batches(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    *,
    rows: int | None,
    batch_norm: BatchNormMode = "train",
    device: torch.device | None = None,
    convert: Convert = dict,
) -> Tensor:
    """Return ``module(**inputs)`` ``[B, D]``, with the activations of ``rows`` samples at a time.

    Dropout is the same in both passes, and so is autocast. Under ``DistributedDataParallel``, call
    this within the module that is wrapped, so that the wrapper is called once a step.

    Args:
        module: makes each row from its row of the inputs, so without BatchNorm in training mode.
        inputs: keyword arguments of ``module``, first dimension B.
        rows: R; the last micro-batch may be smaller. None, or B or more, is one pass.
        batch_norm: what BatchNorm in training mode does, in both passes: ``train`` refuses micro-
            batches, whose statistics are not those of the batch; ``eval`` takes the running
            statistics and leaves them as they are.
        device: where the module is; each micro-batch is moved there when its turn comes. None
            leaves the inputs where they are.
        convert: makes of each micro-batch, once it is there, what ``module`` takes.

    Raises:
        TrainingError: ``module`` has BatchNorm that needs the whole batch; names it.
        ValueError: the inputs differ in their first dimension.
    """
    pieces = pieces_of(inputs, rows)
    count = sum(len(next(iter(piece.values()))) for piece in pieces)
    if rows is not None:  # in a pass over shards all ranks take part; that of a row twice is unused
        short = most_passes(module, len(pieces)) - len(pieces)
        pieces += [{name: x[:1] for name, x in pieces[0].items()}] * short

    def forward(piece: Inputs) -> Tensor:
        with running_statistics(module) if batch_norm == "eval" else nullcontext():
            return module(**convert(moved_to(piece, device)))

    if rows is not None:
        check_batch_norm(module, batch_norm)
    if len(pieces) == 1:
        return forward(pieces[0])
    where = device or next(iter(pieces[0].values())).device
    autocast = torch.is_autocast_enabled(where.type), torch.get_autocast_dtype(where.type)

    def again(piece: Inputs) -> Tensor:
        # weights that autocast keeps would collect the gradients of all micro-batches in bf16
        with torch.autocast(where.type, autocast[1], enabled=autocast[0], cache_enabled=False):
            return forward(piece)

    return torch.cat(
        [
            checkpoint(
                again,
                piece,
                use_reentrant=False,
                preserve_rng_state=False,  # knows the devices of the arguments only
                context_fn=_same_randomness,
            )
            for piece in pieces
        ]
    )[:count]


def check_towers(
    model: ContrastiveModel,
    *,
    rows: int | None,
    batch_norm: BatchNormMode = "train",
    ranks: int = 1,
) -> None:
    """Refuse, before there is a batch, BatchNorm that would see a part of it only.

    Raises:
        TrainingError: a tower has BatchNorm that needs the whole batch; names it.
    """
    for modality in model.towers:
        tower = model.tower(modality)
        if ranks > 1:  # each has its share of the features too
            check_batch_norm(tower, "eval", name=f"towers.{modality}", share="rank")
        if rows and not tower.encoder_frozen:
            check_batch_norm(tower, batch_norm, name=f"towers.{modality}")


def check_batch_norm(
    module: nn.Module,
    batch_norm: BatchNormMode,
    *,
    name: str = "",
    share: Literal["micro-batch", "rank"] = "micro-batch",
) -> None:
    """Refuse what would take the statistics of a micro-batch or a rank for those of the batch.

    Args:
        module: what is to run by micro-batches.
        batch_norm: as in ``forward_in_micro_batches``.
        name: of ``module``, for the message.
        share: what has a part of the batch.

    Raises:
        TrainingError: there is such BatchNorm; names the first, and what can be done.
    """
    modules = cast("Iterator[tuple[str, nn.Module]]", module.named_modules(prefix=name))
    without = "train on one rank" if share == "rank" else "do without micro_batch"
    for path, norm in modules:
        if not isinstance(norm, _BatchNorm):
            continue
        if share == "rank" and isinstance(norm, nn.SyncBatchNorm):
            continue  # its statistics are those of all ranks
        who = f"{path or 'the module'}: {type(norm).__name__}"
        if norm.running_mean is None:
            msg = (
                f"{who} keeps no running statistics, so that it always needs the whole batch; use "
                f"another norm, or {without}"
            )
            raise TrainingError(msg)
        if norm.training and batch_norm == "train":
            msg = (
                f"{who} takes the statistics of the whole batch, which a micro-batch does not "
                "have; set batch_norm to eval, freeze it, or do without micro_batch"
            )
            raise TrainingError(msg)


def _same_randomness() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the first pass of a micro-batch, and what each later one."""
    return nullcontext(), RngState()


@contextmanager
def running_statistics(module: nn.Module) -> Generator[None]:
    """Within the block, let BatchNorm use its running statistics and leave them as they are."""
    # not eval(): what a norm contains, such as dropout, stays as it is
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


def pieces_of(inputs: Mapping[str, Tensor], rows: int | None) -> list[Inputs]:
    """Split inputs into micro-batches of ``rows``; one piece if None.

    Raises:
        ValueError: the inputs differ in their first dimension.
    """
    lengths = {name: len(tensor) for name, tensor in inputs.items()}
    if len(set(lengths.values())) != 1:
        msg = f"inputs differ in their first dimension: {lengths}"
        raise ValueError(msg)
    if rows is None:
        return [dict(inputs)]
    parts = zip(*(torch.split(tensor, rows) for tensor in inputs.values()), strict=True)
    return [dict(zip(inputs, part, strict=True)) for part in parts]


def moved_to(piece: Inputs, device: torch.device | None) -> Inputs:
    """Return a micro-batch on a device; None leaves it where it is."""
    if device is None:
        return piece
    pinned = device.type == "cuda"  # then nobody waits for the copy
    return {k: tensor.to(device, non_blocking=pinned) for k, tensor in piece.items()}
