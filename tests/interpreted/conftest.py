"""Triton's interpreter in less time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from triton import language
from triton.runtime import interpreter


@pytest.fixture(autouse=True)
def _the_language_is_replaced_once_a_launch(monkeypatch):
    """Replace all of the language when a kernel is launched, and not at each call within it.

    For each call of a function by another the interpreter looks through the whole language for what
    that function's module has imported of it, which takes a third of the time.
    """
    replace = interpreter._patch_lang
    whole = SimpleNamespace(__globals__={"tl": language, "core": language.core})

    def call(self, *args, **kwargs):
        return self.rewrite()(*args, **kwargs)

    known = {}

    def numpy_type(dtype):  # of which it makes a table at each call
        if isinstance(dtype, language.block_type):
            dtype = dtype.element_ty
        if type(dtype) is not language.dtype:  # a pointer
            return of_numpy(dtype)
        if dtype.name not in known:
            known[dtype.name] = of_numpy(dtype)
        return known[dtype.name]

    of_numpy = interpreter._get_np_dtype
    monkeypatch.setattr(interpreter, "_get_np_dtype", numpy_type)
    monkeypatch.setattr(interpreter, "_patch_lang", lambda _: replace(whole))
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
