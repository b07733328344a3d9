"""Imports go down only: the contracts of pyproject.toml, and what they cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import grimp

import stts_cli
from stts_cli.families import FAMILIES, class_of

PACKAGE = Path(stts_cli.__file__).parent


def test_the_contracts_are_kept():
    program = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(no_cache=True, no_logo=True))"
    run = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_families_do_not_import_each_other():
    """What several share (the protocol, settings, frame processing) and a parent may be imported by a family's file."""
    graph = grimp.build_graph("stts_cli", cache_dir=None)
    modules = {module for module, _ in FAMILIES.values()}
    for model_type, (module, _) in FAMILIES.items():
        parents = {parent.__module__ for parent in class_of(model_type, model_type).__mro__}
        assert not (modules - parents) & graph.find_modules_directly_imported_by(module), module


def loaded_with(module: str, seen: set[str]) -> set[str]:
    """Return the modules of ours that importing one loads: imports inside functions and for types do not count."""
    path = PACKAGE.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module in seen or not path.is_file():
        return seen
    seen.add(module)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{name}" for name in names)]
        for name in names:
            for end in range(name.startswith("stts_cli") and name.count(".") + 1):
                loaded_with(name.rsplit(".", end)[0], seen)  # its packages too
    return seen


def test_the_toy_world_is_loaded_only_where_it_is_named():
    assert "stts_cli.toy.world" in loaded_with("stts_cli.evaluation.benchmarks.shapes", set())
    loaded: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if not module.startswith(("stts_cli.toy", "stts_cli.evaluation.benchmarks.shapes")):
            loaded_with(module, loaded)
    assert len(loaded) > 100
    assert not [name for name in loaded if name.startswith("stts_cli.toy")]


def test_no_file_is_a_drawer():
    assert not {path.stem for path in PACKAGE.rglob("*.py")} & {"utils", "common", "types", "helpers", "misc"}
