"""The stack of layers in a network of any library: what layer-wise rates and recomputation act on.

A stack is two or more submodules of one class whose names differ in a number: the children of an
``nn.ModuleList`` or ``nn.Sequential``, or ``layer1`` to ``layer4``. So a transformer's stack is its
blocks, and a convolutional network's its stages, whatever library wrote it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBERED = re.compile(r"(.*?)(\d+)")


def layers(network: nn.Module) -> list[nn.Module]:
    """Return the stack that holds the most parameters, first layer first; empty if there is none.

    Of stacks with the same parameters, it is the outermost. One that begins in the network's second
    half, such as the convolutions of a head, is none.
    """
    stacks: list[list[nn.Module]] = [
        stack for module in network.modules() for stack in _stacks(module)
    ]
    stack = max(stacks, key=_size) if stacks else []
    return stack if _begins_early(stack, network) else []


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the finest repeated parts: the layers, or where these are stages, what they repeat."""
    return [block for layer in layers(network) for block in _blocks(layer)]


def depths(network: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter: 0 before the layers, 1 to L in them, then L + 1.

    What precedes the layers is what is registered before them, and embeddings wherever they are
    registered; projections that are not part of a layer come after. Empty if there are no layers.
    """
    stack = layers(network)
    inside = {p: depth for depth, layer in enumerate(stack, 1) for p in layer.parameters()}
    found: dict[str, int] = {}
    reached = 0
    for name, parameter in network.named_parameters() if stack else ():
        reached = inside.get(parameter, reached)
        if parameter in inside:
            found[name] = reached
        elif "embed" in name or name.endswith("cls_token"):
            found[name] = 0
        elif "proj" in name or reached == len(stack):
            found[name] = len(stack) + 1
        else:
            found[name] = reached
    return found


def _stacks(module: nn.Module) -> list[list[nn.Module]]:
    """Return the children alike, by class and name; single operations are not layers."""
    alike: defaultdict[tuple[str, type], list[nn.Module]] = defaultdict(list)
    for name, child in module.named_children():
        numbered = NUMBERED.fullmatch(name)
        if numbered and any(True for _ in child.children()):
            alike[numbered[1], type(child)].append(child)
    return [stack for stack in alike.values() if len(stack) > 1]


def _blocks(layer: nn.Module) -> list[nn.Module]:
    """Return what a stage repeats, or the layer itself if it is no stage.

    A single operation is no block: one in place, alone, would change what it has to run on again.
    """
    children = [child for child in layer.children() if any(True for _ in child.children())]
    inner = children if isinstance(layer, nn.Sequential) else layers(layer)
    return inner if 2 * _size(inner) > _size([layer]) else [layer]


def _begins_early(stack: list[nn.Module], network: nn.Module) -> bool:
    """Whether fewer matrices and kernels come before a stack than are in it."""
    within = {p for module in stack for p in module.parameters()}
    weights = [p in within for p in network.parameters() if p.ndim > 1]
    return True not in weights or weights.index(True) < sum(weights)


def _size(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())
