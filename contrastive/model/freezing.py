"""What of a tower trains and what stays as it is: whole parts, chosen layers, or LoRA's matrices.

Whatever is frozen computes the same function before, while and after the rest trains. So it is
frozen by the module, not by the parameter alone: a module in which every parameter trains follows
``train()``; any other one, such as the whole around it, stays in eval mode, with dropout off and
BatchNorm's statistics as they are; a module without parameters is as the module that it is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from contrastive.model.lora import LORA_DROPOUT, add_lora
from contrastive.nn.name_patterns import matching

if TYPE_CHECKING:
    from contrastive.encoders.module import EncoderModule
    from contrastive.spec import Tower


def freeze_(encoder: nn.Module, head: nn.Module, spec: Tower) -> None:
    """Leave gradients on to what ``spec`` trains, adding LoRA's matrices if it says so.

    Raises:
        SpecError: a pattern matches nothing.
        MissingExtra: there is to be LoRA, and peft is not installed.
    """
    if spec.frozen == "none":
        return
    parameters = dict(encoder.named_parameters())
    names = list(parameters)
    chosen = matching(spec.unfrozen, names, who="unfrozen", what="parameter of the encoder")
    encoder.requires_grad_(requires_grad=False)
    head.requires_grad_(requires_grad=spec.frozen != "all")
    if spec.lora:
        add_lora(encoder, spec.lora)
    for name in chosen:
        parameters[name].requires_grad_()


def trained_modules(network: nn.Module) -> set[nn.Module]:
    """Return the modules in which every parameter trains, and those without any inside them."""
    found: set[nn.Module] = set()
    whole: dict[nn.Module, bool | None] = {}

    def look(module: nn.Module) -> bool | None:
        """Note whether every parameter trains of each module; None for one without any."""
        inner = (look(child) for child in module.children())
        own = (p.requires_grad for p in module.parameters(recurse=False))
        of_it = [*own, *(trains for trains in inner if trains is not None)]
        whole[module] = all(of_it) if of_it else None
        return whole[module]

    def visit(module: nn.Module, *, around: bool) -> None:
        trains = whole[module]
        if trains is None:
            trains = around
        if trains:
            found.add(module)
        for name, child in module.named_children():
            visit(child, around=trains or name == LORA_DROPOUT)

    look(network)  # each module once: its parameters are those of many around it
    visit(network, around=False)
    return found


def set_modes(network: nn.Module) -> None:
    """Put what trains in training mode, and the rest in eval mode."""
    network.eval()
    for module in trained_modules(network):
        module.training = True  # not train(), which would reach frozen parts


def weights_from_spec(encoder: EncoderModule, spec: Tower) -> frozenset[str]:
    """Return the weights of an encoder that its spec alone restores, so that none are saved.

    They are the frozen ones of a pretrained encoder. Names are those of its ``state_dict``; buffers
    go with the module that they are in.
    """
    if spec.frozen == "none" or not encoder.reproducible:
        return frozenset()
    trained = trained_modules(encoder)
    names: list[str] = []
    for name, tensor in encoder.state_dict(keep_vars=True).items():
        owner = encoder.get_submodule(name.rpartition(".")[0])
        is_buffer = not isinstance(tensor, nn.Parameter)
        if not (owner in trained if is_buffer else tensor.requires_grad):
            names.append(name)
    return frozenset(names)
