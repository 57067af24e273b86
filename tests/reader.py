"""A reader of the documentation, who does in a folder what its blocks show.

- ``python`` runs, and shares its names with the blocks after it;
- ``yaml`` is checked as what it is: a run, a model, some sections of a run, or a component;
- either of the two whose first line is a file's name, such as ``# clip.yaml``, is that file for the
  blocks after it: such python runs when it is imported, such yaml is checked by whichever command
  of the page validates it;
- ``console``: the lines that start with ``$`` are typed. What is shown below one is what it prints,
  ``...`` standing for any lines; a command that fails must show why. ``contrastive`` and ``python``
  run; what ``pip`` installs and ``make`` makes has to be in this checkout;
- ``text`` below ``<!-- printed -->`` is what the python before it on that page prints.

Below ``<!-- numbers vary -->`` or ``<!-- printed, numbers vary -->``, numbers that depend on the
machine are not compared.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

from contrastive.components import REGISTRIES
from contrastive.config.yaml_files import read_yaml
from contrastive.spec import ModelSpec, RunSpec
from tests.pages import MINIMAL, ROOT, commands_of, is_shown, validated, what_is

INTERFACES = {registry.interface.kind: registry.interface for registry in REGISTRIES}
BEGIN = ("init", "flickr30k", "--with-data")
TRAIN = ("train", "clip.yaml")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


class Reader:
    """Follows the blocks of a page."""

    def __init__(self, folder, command, monkeypatch, shared_folder):
        self.folder = folder
        self.shared_folder = shared_folder
        self.begun = None
        self.command = command
        self.monkeypatch = monkeypatch
        self.module = types.ModuleType("notebook")
        self.printed = {}

    def follow(self, block, *, done=()):
        """Do what a block shows, but for the commands that are done."""
        if block.file:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python" and not block.file:
            self.python(block)
        elif block.language == "yaml":
            self.yaml(block)
        elif block.language == "console":
            for typed, shown in commands_of(block):
                if (typed, shown) not in done:
                    self.type(typed, shown, block)
        elif block.mark.startswith("printed"):
            printed = self.printed[block.place]
            assert is_shown(block.text, printed, numbers_vary=block.numbers_vary), printed

    def python(self, block):
        """Run code, which finds its own source as in a notebook."""
        name = f"<{block.where}>"
        code = compile("\n" * block.line + block.text, name, "exec")
        lines = [*"\n" * block.line, *block.text.splitlines(keepends=True)]
        linecache.cache[name] = (len(block.text), None, lines, name)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, vars(self.module))
        self.printed[block.place] = output.getvalue()

    def yaml(self, block):
        if validated(block):
            return
        path = self.folder / (block.file or "block.yaml")
        path.write_text(block.text, encoding="utf-8")
        data, _ = read_yaml(path)
        kind = what_is(data)
        if kind == "model":
            ModelSpec.model_validate(data)
        elif kind == "run":
            RunSpec.model_validate(MINIMAL | data)
        else:
            INTERFACES[kind].choose(data)

    def type(self, typed, shown, block):
        """Type a command, and compare what it prints with what is shown."""
        words = shlex.split(typed, comments=True)
        with self.monkeypatch.context() as patch:
            while re.match(r"[A-Z_]+=", words[0]):
                patch.setenv(*words.pop(0).split("=", 1))
            name, *arguments = words
            code, printed = getattr(self, f"type_{name}")(*arguments)
        told = f"{block.where}: {typed}\n{printed}"
        assert code == 0 or shown, told
        assert is_shown(shown, printed, numbers_vary=block.numbers_vary), told

    def type_contrastive(self, *arguments):
        if arguments == TRAIN and self.begun == (self.folder / "clip.yaml").read_bytes():
            return self.trained()
        code, printed = self.run_contrastive(*arguments)
        if arguments == BEGIN:
            self.begun = (self.folder / "clip.yaml").read_bytes()
        return code, printed

    def trained(self):
        """Train what ``init`` has just written, once for all pages that begin so."""

        def train(folder):
            with self.monkeypatch.context() as patch:
                patch.chdir(folder)
                self.run_contrastive(*BEGIN)
                code, printed = self.run_contrastive(*TRAIN)
            assert code == 0, printed
            (folder / "printed.txt").write_text(printed, encoding="utf-8")

        folder = self.shared_folder("trained-by-readers", train)
        shutil.copytree(folder / "runs", self.folder / "runs")
        return 0, (folder / "printed.txt").read_text(encoding="utf-8")

    def run_contrastive(self, *arguments):
        before = os.environ.get("CONTRASTIVE_PLUGINS")
        ended = self.command(*arguments)
        if os.environ.get("CONTRASTIVE_PLUGINS") != before:  # by --no-plugins, for its process
            del os.environ["CONTRASTIVE_PLUGINS"]
        for registry in REGISTRIES:
            vars(registry).pop("installed", None)  # each process looks for plugins anew
        return ended.code, ended.err + ended.out

    def type_python(self, *arguments):
        if arguments[:2] == ("-m", "pip"):
            return self.type_pip(*arguments[2:])
        if arguments[0].endswith(".py"):
            return self.type_script(*arguments)
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout

    def type_script(self, path, *arguments):
        """Run a script in this process: another imports torch, and what it needs besides, anew."""
        code = 0
        with self.monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
            patch.setattr(sys, "argv", [path, *arguments])
            patch.syspath_prepend(self.folder / Path(path).parent)
            try:
                runpy.run_path(path, run_name="__main__")
            except SystemExit as end:
                code = end.code or 0
        return code, out.getvalue()

    def type_pip(self, verb, *words):
        assert verb == "install"
        unknown = {word for word in words if not word.startswith("-")} - installable()
        return len(unknown), f"not in this checkout: {unknown}"

    def type_make(self, target):
        return int(f"\n{target}:" not in MAKEFILE), f"no target {target}"


def installable() -> set[str]:
    """Return what ``pip install`` may name: this project with its extras, its plugins and tools."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = about["project"]["optional-dependencies"]
    tools = {re.match(r"[\w-]+", one)[0] for one in about["dependency-groups"]["dev"]}
    tools |= {word for line in re.findall(r"pip install .*", MAKEFILE) for word in line.split()}
    plugins = {path.parent for path in ROOT.glob("plugins/*/pyproject.toml")}
    names = {path.name for path in plugins} | {f"plugins/{path.name}" for path in plugins}
    groups = [*extras, "timm,transformers", "timm,transformers,datasets"]
    names |= {f"{name}[{group}]" for name in (".", "contrastive-kit") for group in groups}
    return names | tools
