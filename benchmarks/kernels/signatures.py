"""What Triton's compiler needs to build each shipped kernel without a GPU.

``build.source()`` is for ``triton.compile``, with the target's capability and ``build.options``.
"""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from triton.compiler import ASTSource

from contrastive.losses.backends.triton import (
    gradient_kernels,
    launch_pairs,
    launch_rows,
    line_kernels,
    order,
    order_kernels,
    row_kernels,
    sum_kernels,
    tiles,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


_INTEGERS = "n", "m", "p", "offset", "room", "across", "down", "steps", "before", "is_last"
_NUMBERS = dict.fromkeys(_INTEGERS, "i32") | {"least_row": "fp32", "least_column": "fp32"}
_KINDS = {"weigh": ("diagonal",), "group_sums": ("groups",)}  # of all kinds, or of some only
# groups in which a row is matched with itself: what else they take is that of groups
_OTHERS = "group_sums", "peaks", "complete"
_STRIDES = {"stride": "i32", "exps_stride": "i32"}
_IDS = dict.fromkeys(("a_ids", "b_ids", "b_raw", "a_order", "b_order"), "*i64")
_POINTERS = {"exact": "*u8"} | _IDS | dict.fromkeys(("first", "last", "match"), "*i32")  # else fp32


@dataclass(frozen=True)
class Build:
    """One kernel as it is shipped."""

    name: str
    capability: tiles.Capability
    fn: Any
    """The ``triton.jit`` function."""
    signature: dict[str, str]
    """The type of each argument."""
    constexprs: dict[str, Any]
    attrs: dict[tuple[int], list[list[Any]]]
    """Which arguments are multiples of 16."""
    options: dict[str, Any]
    products: bool
    """Whether the kernel multiplies in half precision, which tensor cores do."""

    def source(self) -> Any:
        """Return what ``triton.compile`` takes."""
        return ASTSource(self.fn, self.signature, self.constexprs, self.attrs)


def builds() -> Iterator[Build]:
    """Return all that is shipped."""
    for shipped in tiles.shipped():
        for kind in _KINDS.get(shipped.kernel, ("diagonal", "masked", "groups")):
            yield from _over_pairs(shipped, kind)
        if shipped.kernel in _OTHERS:
            yield from _over_pairs(shipped, "others")
    for capability in tiles.CAPABILITIES:
        yield from _over_rows(capability)


def _over_pairs(shipped: tiles.Shipped, kind: str) -> Iterator[Build]:
    tile = shipped.tile
    common = {
        "D": shipped.width,
        "R": tile.rows,
        "C": tile.columns,
        "K": tile.depth,
        "PRECISION": "ieee",
        "INTERPRETED": False,
    }
    of_kind = {"KIND": "groups" if kind == "others" else kind}
    lift = {"LIFT": launch_pairs.LIFT if shipped.number == "fp16" else 0.0}
    columns = {"COLUMNS": True}
    options = {"num_warps": tile.warps, "num_stages": tile.stages, **launch_rows.FUSION}
    each: dict[tiles.Kernel, list[tuple[Any, dict[str, Any]]]] = {
        "sums": [(sum_kernels.sums, of_kind | columns | {"KEEP": False})],
        "group_sums": [(sum_kernels.group_sums, columns)],
        "peaks": [(sum_kernels.peaks, of_kind)],
        "weigh": [(gradient_kernels.weigh, lift)],
        "complete": [(gradient_kernels.complete, of_kind | lift)],
        "sigmoid": [(gradient_kernels.sigmoid, of_kind | lift | {"GRADIENTS": True})],
    }
    if kind in {"diagonal", "masked"} and shipped.number != "fp16":
        each["sums"] += [(sum_kernels.sums, of_kind | columns | {"KEEP": True})]
    for fn, own in each[shipped.kernel]:
        unused: set[str] = set()
        if kind == "diagonal":
            unused |= {"first", "last"}
        if kind in {"diagonal", "groups"}:
            unused |= {"match"}
        if kind in {"diagonal", "masked"}:
            unused |= {"row_count", "column_count", "row_positive", "column_positive"}
        if not own.get("KEEP"):
            unused |= {"exps"}
        name = f"{fn.__name__} {kind} {shipped.number} {shipped.width}"
        name += " kept" if own.get("KEEP") else ""
        half = shipped.number != "fp32"
        yield _build(
            name, shipped.capability, fn, shipped.number, common | own, unused, options, half
        )


def _over_rows(capability: tiles.Capability) -> Iterator[Build]:
    tile = tiles.RESCALE
    width = {"D": 1024, "W": 1024}
    fold = {"R": launch_rows.FOLD[0], "T": launch_rows.FOLD[1]}
    scaled = {"R": tile.rows, "C": tile.columns, "LIFT": 0.0}
    some = {"R": launch_rows.rows_at_once(width["D"])}
    unit = {"NORMALIZE": True, "WRITE": True}
    sorted_by = {"R": order.AT_ONCE, "COUNT": True}
    finish = width | {"RAW": False, "LIFT": 0.0}
    matches = {"b_raw", "a_order", "b_order", "match"}
    orders = {"a_order", "b_order"}
    none = {"row_count", "column_count"}
    positives = {"row_positive_parts", "column_positive_parts", "row_positive", "column_positive"}
    kernels: list[tuple[Any, dict[str, Any], set[str]]] = [
        (gradient_kernels.rescale, scaled, set()),
        (order_kernels.bands, sorted_by | {"KIND": "masked"}, set()),
        (order_kernels.bands, sorted_by | {"KIND": "groups"}, matches),
        (order_kernels.bands, sorted_by | {"KIND": "others", "COUNT": False}, none),
        (row_kernels.prepare, width | some | unit | {"KIND": "diagonal"}, {"x_columns"} | orders),
        (row_kernels.prepare, width | some | unit | {"KIND": "masked"}, set()),
        (row_kernels.prepare, width | some | unit | {"KIND": "groups"}, {"x_rows", "x_columns"}),
        (line_kernels.scalars, {"COUNTED": False, "B": launch_rows.LONG}, none),
        (line_kernels.scalars, {"COUNTED": True, "B": launch_rows.LONG}, set()),
        (line_kernels.fold, fold | {"POSITIVES": False}, positives),
        (line_kernels.fold, fold | {"POSITIVES": True}, set()),
        (line_kernels.stats, {"COUNTED": False, "R": fold["R"]}, none),
        (line_kernels.stats, {"COUNTED": True, "R": fold["R"]}, set()),
        (row_kernels.matched_logits, width, set()),
        (row_kernels.normalize_rows, width | some, set()),
        (row_kernels.finalize_gradient, width | {"RAW": False}, set()),
        (row_kernels.finalize_gradients, finish | {"ORDERED": False}, orders),
        (row_kernels.finalize_gradients, finish | {"ORDERED": True}, set()),
    ]
    for fn, constexprs, unused in kernels:
        name = f"{fn.__name__} {constexprs}"
        yield _build(
            name,
            capability,
            fn,
            "bf16",
            constexprs,
            unused,
            {"num_warps": 4, **launch_rows.FUSION},
            False,
        )


def _build(
    name: str,
    capability: tiles.Capability,
    fn: Any,
    number: tiles.Number,
    constexprs: dict[str, Any],
    unused: set[str],
    options: dict[str, Any],
    products: bool,
) -> Build:
    written = "a_rows", "b_rows", "a_out", "b_out"
    embeddings = dict.fromkeys(("a", "b", "g", "exps", "raw", *written), f"*{number}")
    if fn is row_kernels.normalize_rows or fn is row_kernels.finalize_gradient:
        embeddings |= {"out": f"*{number}", "x": f"*{number}"}
    types = _NUMBERS | _STRIDES | _POINTERS | embeddings
    known = constexprs | {x: None for x in fn.arg_names if x in unused}
    signature = {x: "constexpr" if x in known else types.get(x, "*fp32") for x in fn.arg_names}
    attrs: dict[tuple[int], list[list[Any]]] = {}
    for param in cast("list[Any]", fn.params):
        aligned = signature[param.name].startswith("*") and not param.do_not_specialize_on_alignment
        if aligned or param.name in _STRIDES:
            attrs[param.num,] = [["tt.divisibility", 16]]
    return Build(name, capability, fn, signature, known, attrs, options, products)
