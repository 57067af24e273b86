"""Shipped kernels as the compiler makes them: in registers, within shared memory, by tensor cores.

No GPU is needed. Ids with embeddings of fp16 and fp32 are much as with bf16, and are left to the
command ``python -m benchmarks.kernels.machine_code``.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from benchmarks.kernels import machine_code
from contrastive.losses.backends import all_pairs as engine
from contrastive.losses.backends.pair_labels import PairLabels
from contrastive.losses.backends.triton import fused, tiles

pytestmark = pytest.mark.slow  # the compiler's assembler is a process
CHECKED = r"^(?!.*(masked|groups|others) fp)"
BUILDS = [build for gpu in tiles.CAPABILITIES for build in machine_code.builds(gpu, CHECKED)]
# nightly: fp16, which compiles as bf16 does; masked, whose parts diagonal and groups have; of fp32
# and of the older GPU all but the largest kernel; others, all but the largest, are as groups are
NIGHTLY = r" fp16 | masked |(?<! sums diagonal) fp32 |^sm_80 (?!sums groups )"
NIGHTLY += r"| (peaks|complete) others |'others'| fp32 512 kept"
NAMES = ["sm_{}{} ".format(*build.capability) + build.name for build in BUILDS]
SHIPPED = [
    pytest.param(build, id=name, marks=[pytest.mark.nightly] if re.search(NIGHTLY, name) else [])
    for name, build in zip(NAMES, BUILDS, strict=True)
]


@pytest.fixture
def wrong():
    """Compile a kernel of Hopper's with another tile than is shipped."""

    def compile_wrong(*, warps=4, stages=3, **sizes):
        build = machine_code.builds(machine_code.HOPPER, "weigh diagonal bf16 512")[0]
        return machine_code.compiled(
            replace(
                build,
                constexprs=build.constexprs | {"D": 1024} | sizes,
                options=build.options | {"num_warps": warps, "num_stages": stages},
            )
        )

    return compile_wrong


class NoGPU:
    """What Triton asks of a driver before it compiles."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 90

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def asked(monkeypatch):
    """Collect what launches have compiled; nothing is, and nothing is launched."""
    found = set()

    def collect(*, fn, compile, **_):
        constexprs = {fn.jit_function.arg_names[i]: x for (i,), x in compile["constants"].items()}
        found.add(program(fn.jit_function, compile["signature"], constexprs, *compile["configs"]))
        return True

    monkeypatch.setattr(knobs.runtime, "jit_cache_hook", collect)
    monkeypatch.setattr(fused, "_check", lambda a: None)
    monkeypatch.setattr(driver, "_active", NoGPU())
    return found


def program(fn, signature, constexprs, attrs):
    aligned = {key: value for key, value in attrs.items() if value}
    return fn.__name__, *(str(sorted(x.items())) for x in (signature, constexprs, aligned))


@pytest.mark.parametrize(
    ("kind", "positives"),
    [("diagonal", "ignore"), ("masked", "mask"), ("groups", "multi"), ("others", "multi")],
)
def test_what_is_compiled_here_is_what_the_losses_launch(kind, positives, asked):
    builds = machine_code.builds(machine_code.HOPPER, f" {kind} bf16 512")
    assert len(builds) >= 3
    a, b = torch.zeros(2, 256, 512, dtype=torch.bfloat16, requires_grad=True)
    log_scale, bias = (torch.zeros((), requires_grad=True) for _ in range(2))
    ids = (None, None) if kind == "diagonal" else (torch.arange(256), torch.arange(256))
    labels = PairLabels.of(256, 256, *ids, positives=positives, device=a.device)
    labels = replace(labels, without_self=kind == "others")
    for tile in {sizes(build) for build in builds}:
        for cache_bytes in (0, 2**30):
            sweep = fused.FusedBackend(tile=tile, cache_bytes=cache_bytes)
            engine.infonce(a, b, log_scale, labels, backend=sweep).backward()
            sweep.infonce(a, b, log_scale, *ids, positives=positives).backward()
            engine.sigmoid(a, b, log_scale, bias, labels, backend=sweep).backward()
    for build in builds:
        assert program(build.fn, build.signature, build.constexprs, build.attrs) in asked


def sizes(build):
    """Return the tile of a kernel over pairs."""
    own = build.constexprs | build.options
    return tiles.Tile(*(own[size] for size in ("R", "C", "K", "num_warps", "num_stages")))


@pytest.mark.parametrize("build", SHIPPED)
def test_a_shipped_kernel_has_no_fault(build):
    assert machine_code.compiled(build).faults() == []


def test_a_tile_that_the_registers_do_not_hold_is_found_out(wrong):
    code = wrong(R=128, C=256, K=16)
    assert code.registers == 255
    assert code.stack > 0
    assert f"spills {code.stack} bytes a thread" in code.faults()


def test_a_tile_that_shared_memory_does_not_hold_is_found_out(wrong):
    code = wrong(R=64, C=64, K=128, stages=8)
    assert code.shared == (64 + 64) * 128 * 2 * 8
    assert code.faults() == [f"takes {code.shared} bytes of shared memory, of {227 * 1024}"]


@pytest.mark.parametrize(
    ("tile", "warps"), [({"R": 32, "C": 64, "K": 32}, 4), ({"R": 64, "C": 64, "K": 32}, 2)]
)
def test_a_tile_too_small_for_the_tensor_cores_of_hopper_is_found_out(tile, warps, wrong):
    code = wrong(**tile, warps=warps)
    assert code.wgmma == 0
    assert code.faults() == ["multiplies with mma.sync, not wgmma"]


def test_a_kernel_whose_products_use_no_tensor_cores_is_found_out():
    single = machine_code.builds(machine_code.HOPPER, "weigh diagonal fp32")[0]
    code = machine_code.compiled(replace(single, products=True))
    assert code.faults() == ["multiplies without tensor cores"]


def test_a_wait_after_each_product_is_found_out():
    good = machine_code.Code(
        "",
        machine_code.HOPPER,
        (),
        4,
        3,
        True,
        registers=168,
        stack=0,
        shared=0,
        wgmma=8,
        waits=1,
        mma=0,
    )
    assert good.faults() == []
    assert replace(good, waits=8).faults() == ["waits for each wgmma"]
