"""What of the losses and of the schema is kept in the golden files."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from contrastive.losses import Loss, functional

GOLDEN = Path(__file__).parent / "0.1"


def plain_fields(schema):
    """Return ``{kind: {type: {field: schema}}}`` without what is written for people."""
    parts = schema["$defs"]
    kinds = {kind: choices(part) for kind, part in parts.items() if "allOf" in part}
    chosen = {name for menu in kinds.values() for name in menu.values()}
    sections = {name: name for name in parts if name not in chosen and name not in kinds}
    return {
        kind: {name: fields(parts[part]) for name, part in sorted(menu.items())}
        for kind, menu in {"section": sections, **kinds}.items()
    }


def choices(part):
    names = part["properties"]["type"]["anyOf"][0]["enum"]
    found = {
        one["if"]["properties"]["type"]["const"]: one["then"]["$ref"].rpartition("/")[2]
        for one in part["allOf"]
    }
    return {name: found[name] for name in names}  # without those that are old


def fields(part):
    required = part.get("required", ())
    return {
        name: {k: v for k, v in about.items() if k not in ("description", "title", "examples")}
        | ({"required": True} if name in required else {})
        for name, about in part["properties"].items()
        if name != "type" and not about.get("deprecated")
    }


def computed(case):
    """Return the value of a loss and the norm of each of its gradients, in float64."""
    batch = load_file(GOLDEN / "batch.safetensors")
    ids = batch.pop("ids")
    a, b, *teacher = (batch[name].double() for name in ("a", "b", "teacher_a", "teacher_b"))
    of = {"a": a.requires_grad_(), "b": b.requires_grad_()}
    if "function" in case:
        of["log_scale"] = torch.tensor(math.log(10), requires_grad=True)
        if case["function"] == "sigmoid":
            of["bias"] = torch.tensor(-3.0, requires_grad=True)
        scalars = {name: of[name] for name in of if name not in ("a", "b")}
        function = getattr(functional, case["function"])
        value = function(a, b, ids, ids, **scalars, **case["arguments"])
    else:
        kind = case["loss"]["type"]
        module = Loss.choose(case["loss"]).build()
        of |= {name: p for name, p in module.named_parameters() if p.requires_grad}
        if kind == "queue":
            module(b.detach().flip(0), a.detach().flip(0), ids.flip(0))  # the batch before
        given = dict(zip(("teacher_a", "teacher_b"), teacher, strict=True))
        value, _ = module(a, b, ids, **(given if kind == "distillation" else {}))
    gradients = torch.autograd.grad(value, list(of.values()))
    norms = {name: g.norm().item() for name, g in zip(of, gradients, strict=True)}
    return {"value": value.item(), "gradients": norms}
