"""Networks whose weights the ranks hold in shards, by torch's FSDP2 (``fully_shard``).

A block's weights are gathered for its forward and its backward pass, and freed after; gradients
leave as shards, and so do AdamW's moments. A pass is then a matter of all ranks: where each runs
another number of them, as in an evaluation, ``whole_weights`` holds them whole.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils._pytree import tree_map

from contrastive.distributed.global_batch import BatchGroup, device_for_sizes
from contrastive.nn.layer_stack import blocks
from contrastive.nn.sharded_tensors import has_shards, is_sharded

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from torch import Tensor, nn


def shard_(
    networks: Sequence[nn.Module], device: torch.device, *, param_dtype: torch.dtype | None = None
) -> None:
    """Replace the weights of networks, in place, by this rank's shards of them.

    Each block of a network is gathered on its own, and what is in none of them together. Scalars,
    weights that several blocks share, and those of another type than most stay whole.

    Args:
        networks: with the same weights on all ranks, on ``device``.
        device: of this rank.
        param_dtype: type in which weights are gathered; None is their own. Gradients are averaged
            in fp32.
    """
    # torch is slow to import these, and may be built without them
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.distributed_c10d import get_world_size
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=param_dtype,
        reduce_dtype=torch.float32 if param_dtype else None,
        cast_forward_inputs=False,  # autocast does
    )
    mesh = init_device_mesh(device.type, (get_world_size(),))
    parts = {network: [*dict.fromkeys(blocks(network))] for network in networks}
    stay = _kept_whole(parts.items())
    for weight in {p for network in networks for p in network.parameters()} - stay:
        weight.data = weight.data.contiguous()  # FSDP2 takes no other, such as channels last
    for network, inner in parts.items():
        for part in (*inner, network):
            part.register_forward_hook(_no_view)
            cast("Any", fully_shard)(
                part,
                mesh=mesh,
                mp_policy=policy,
                ignored_params=stay,
                reshard_after_forward=part is not network,  # its own weights are few
            )


def _no_view(_: nn.Module, __: Any, output: Any) -> Any:
    """Copy outputs that are views: FSDP2's hook on one is lost if it is changed in place."""
    return tree_map(_copied_if_view, output)


def _copied_if_view(x: object) -> object:
    return x.clone() if isinstance(x, torch.Tensor) and x._is_view() else x


def _kept_whole(
    networks: Iterable[tuple[nn.Module, Sequence[nn.Module]]],
) -> set[nn.Parameter]:
    """Return the weights that FSDP2 cannot shard."""
    owners: defaultdict[nn.Parameter, set[nn.Module]] = defaultdict(set)
    for network, inner in networks:
        owner = {module: part for part in inner for module in part.modules()}
        for module in network.modules():
            for parameter in module.parameters(recurse=False):
                owners[parameter].add(owner.get(module, network))
    types = Counter(p.dtype for p in owners if p.requires_grad)
    common = max(types, key=types.__getitem__, default=None)
    return {
        p
        for p, found in owners.items()
        if p.ndim == 0
        or p.numel() == 0
        or len(found) > 1
        or (p.requires_grad and p.dtype != common)
    }


def _parts(model: nn.Module) -> list[Any]:
    """Return the modules that are sharded, outermost first."""
    from torch.distributed.fsdp import FSDPModule

    return [cast("Any", part) for part in model.modules() if isinstance(part, FSDPModule)]


def most_passes(module: nn.Module, own: int) -> int:
    """Return how many passes of a module the rank with most of them makes, if it is sharded.

    Each pass is one of all ranks, whose rows differ in number; all of them call this.
    """
    group = BatchGroup.current()
    if group is None or not _parts(module):
        return own
    here = device_for_sizes(group.process_group, next(module.parameters()).device)
    return int(group.all_reduce_max(torch.tensor(own, device=here)))


@contextmanager
def several_passes(model: nn.Module) -> Generator[None]:
    """Within the block, a backward pass may run forward passes again, each several times.

    Before torch 2.14 FSDP2 gathers no weights for that: they stay whole from the first one on.
    """
    if torch.__version__ >= "2.14" or not has_shards(model):
        yield
        return
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_backward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_backward(True, recurse=False)
            part.reshard()


@contextmanager
def whole_weights(model: nn.Module) -> Generator[None]:
    """Within the block, which all ranks enter, hold sharded weights whole: a pass asks no rank.

    ``state_dict`` would shard them again; ``named_parameters`` and ``named_buffers`` do not.
    """
    if not has_shards(model):
        yield
        return
    parts = _parts(model)
    with ExitStack() as stack:
        for part in parts:
            part.unshard()
            stack.callback(part.reshard)
        for part in parts:
            # FSDP would count passes, of which ranks make other numbers, some of which fail
            for hooks in (part._forward_pre_hooks, part._forward_hooks):
                stack.enter_context(_without_fsdp(hooks))
        yield


@contextmanager
def _without_fsdp(hooks: dict[int, Any]) -> Generator[None]:
    """Within the block, leave FSDP's own out of a module's hooks."""
    before = dict(hooks)
    for number, hook in before.items():
        if type(getattr(hook, "__self__", None)).__module__.startswith("torch.distributed.fsdp"):
            del hooks[number]
    try:
        yield
    finally:
        hooks.clear()
        hooks.update(before)


def like(x: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor of a weight's shape, laid out in memory and sharded as it is.

    ``x`` is whole on each rank, or sharded so already.
    """
    if not is_sharded(parameter):
        return torch.empty_like(parameter, dtype=x.dtype).copy_(x)
    if is_sharded(x):
        return x
    from torch.distributed.tensor import distribute_tensor

    there = cast("Any", parameter)
    return distribute_tensor(
        x.to(parameter.device), there.device_mesh, there.placements, src_data_rank=None
    )
