"""What the kit for plugins tells of a component is written into it, and then it passes."""

from __future__ import annotations

import pytest
import torch

from contrastive.testing import check_component
from tests.test_check_component import DEFECTS, offered

EDITS = {  # a defective package: the remedy, and its code before and after
    "loss_scale": (
        "make it an nn.Parameter",
        (
            "torch.tensor(log_scale, requires_grad=True)",
            "torch.nn.Parameter(torch.tensor(log_scale))",
        ),
    ),
    "loss_unbounded": ("clamp it in clamp_()", ("pass", "super().clamp_()")),
    "loss_autocast": (
        "take logits from LossModule.logits",
        ("self.log_scale.exp() * a @ b.T", "super().logits(a, b)"),
    ),
    "loss_divides": (
        "multiply cosines by log_scale.exp()",
        ("/ self.log_scale", "* self.log_scale"),
    ),
    "loss_overflows": (
        "compute in logarithms: logsumexp",
        ("logits.exp()", "logits"),
        (
            "-((each * same).sum(1) / each.sum(1)).log().mean()",
            "(each.logsumexp(1) - each.masked_fill(~same, -1e9).logsumexp(1)).mean()",
        ),
    ),
    "loss_sums": ("average over rows", (" * len(logits)", "")),
    "loss_ids": (
        "honour a_ids and b_ids",
        ("torch.eye(n, m, dtype=torch.bool)", "super().same(n, m, a_ids, b_ids)"),
    ),
    "address": (
        "make it a frozen dataclass",
        (
            "class Reader:",
            "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass Reader:",
        ),
        (
            "def __init__(self, max_length):\n        self.spell = Spell(max_length)",
            "max_length: int",
        ),
        ("self.spell(", "Spell(self.max_length)("),
    ),
    "lambda": (
        "functions and classes at the top of a module, without lambdas",
        ("lambda text: text.lower()", "bytes.lower"),
        ("lambda text: text", "bytes"),
    ),
    "detached": ("without detach", ("with torch.no_grad():", "if True:")),
    "squeeze": ("keep B = 1, which squeeze() also drops", (".squeeze()", "")),
    "width": (
        "let the module give, and say, one width: 16?",
        (
            "super().__init__(spec)\n",
            "super().__init__(spec)\n        self.out_dim = 2 * spec.width\n",
        ),
    ),
    "head_width": ("as out_dim says", ("(in_dim, in_dim)", "(in_dim, out_dim)")),
    "dropout": ("draw only if self.training", (", 0.1)", ", 0.1, self.training)")),
    "awake": ("pass its mode on to every part", ("self.norm.train()", "self.norm.train(mode)")),
    "forgets": (
        "parameters or buffers (register_buffer, persistent)",
        (
            "self.signs = torch.randn(spec.width).sign()",
            "self.register_buffer('signs', torch.ones(8))",
        ),
        ("self.shift = torch.randn(spec.width)", "self.register_buffer('shift', torch.zeros(8))"),
    ),
    "tokens": (
        "pool tokens",
        ("self.table(letters)", "self.norm(self.pool(self.table(letters), letters != 0))"),
    ),
    "lenient": ("keep extra='forbid'", (', extra="ignore"', "")),
    "dump": ("dump every field as its validators take it", ('f"{value} bytes"', "value")),
    "doubles": ("idempotent", ("2 * value", "value")),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", EDITS)
def test_a_component_passes_once_it_is_written_as_is_told(name, site, installed, monkeypatch):
    torch.set_num_threads(1)
    said, *edits = EDITS[name]
    assert DEFECTS[name][2] in said
    folder = site("healthy", f"defect_{name}")
    package = folder / f"contrastive_defect_{name}"
    file = package / ("module.py" if (package / "module.py").exists() else "__init__.py")
    code = file.read_text()
    for before, after in edits:
        assert before in code
        code = code.replace(before, after)
    file.write_text(code)
    monkeypatch.syspath_prepend(folder)
    installed()
    (config,) = offered(f"defect_{name}")
    check_component(config)
