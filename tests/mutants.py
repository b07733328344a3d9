"""Find lines that no test holds: change one small thing at a time in a module, run its tests, list what they let pass.

    python -m tests.mutants stts_cli/pruning/selection.py
    python -m tests.mutants stts_cli/cost stts_cli/evaluation/scoring.py --sample 60
    python -m tests.mutants stts_cli/pruning/plan.py tests/pruning/test_pruned_vit.py tests/pruning/test_tome.py

A file is held by the tests that are named, else by the test file that mirrors it, else by all tests of the mirroring
folder; tests marked slow are left out. --sample takes so many mutants of each file, the same ones in every run. Each is
a fork of one process that has the slow imports behind it, so it costs little more than its tests. A file's last line is
its count; the exit status is 1 where mutants survived. A survivor is either a test to write, a line to drop, or a
change that changes nothing (say which).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib.machinery
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "amin": "amax", "amax": "amin", "cumsum": "cumprod"}
SECONDS = 120
MEMORY = 8 * 2**30  # a loop that no longer ends may fill a list


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield (line, what was changed, the changed module) for every small change."""
    hints = {id(part) for node in ast.walk(tree) for hint in _hints(node) for part in ast.walk(hint)}
    for number, node in enumerate(ast.walk(tree)):
        for what, change in _changes(node) if id(node) not in hints else ():
            changed = copy.deepcopy(tree)
            change(next(n for i, n in enumerate(ast.walk(changed)) if i == number))
            yield node.lineno, what, ast.fix_missing_locations(changed)


def _hints(node: ast.AST) -> list[ast.AST]:
    """Return a node's type hints and decorators, which change nothing that a test should see."""
    hints = [getattr(node, field, None) for field in ("annotation", "returns")]
    return [hint for hint in hints if hint is not None] + list(getattr(node, "decorator_list", []))


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new = SWAPS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} -> {new.__name__}", lambda n: n.ops.__setitem__(0, new())
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        other = SWAPS[type(node.op)]
        yield f"{type(node.op).__name__} -> {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert, ast.USub)):
        yield f"without {type(node.op).__name__}", lambda n: setattr(n, "op", ast.UAdd()) or _drop(n)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "condition -> not", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    elif isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield f"{node.id} -> {NAMES[node.id]}", lambda n: setattr(n, "id", NAMES[n.id])
    elif isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        yield f"{node.attr} -> {NAMES[node.attr]}", lambda n: setattr(n, "attr", NAMES[n.attr])
    elif isinstance(node, (ast.Continue, ast.Break)):
        yield f"without {type(node).__name__.lower()}", lambda n: setattr(n, "__class__", ast.Pass)


def _drop(node: ast.UnaryOp) -> None:
    """Make a unary operator the identity: `not x` becomes `bool(x)`, `-x` and `~x` become `x`."""
    operand = node.operand
    node.__class__ = ast.Subscript
    node.value, node.slice, node.ctx = ast.List([operand], ast.Load()), ast.Constant(0), ast.Load()


class _Mutated(importlib.machinery.SourceFileLoader):
    """Load the changed module in the place of the file's."""

    tree: ast.Module

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        return compile(self.tree, self.path, "exec")


class _Finder:
    """Find only the module that was changed."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != self.name:
            return None
        loader = _Mutated(name, self.path)
        loader.tree = self.tree
        return importlib.machinery.ModuleSpec(name, loader, origin=self.path)


def _child(name: str, path: str, tree: ast.Module | None, tests: list[str], cpu_s: int) -> int:
    import pytest

    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    if tree is not None:
        sys.meta_path.insert(0, _Finder(name, path, tree))  # type: ignore[arg-type]
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-m", "not slow", *tests]))


def _run(name: str, path: str, tree: ast.Module | None, tests: list[str], cpu_s: int = SECONDS) -> int:
    """Start a mutant's tests in a fork; returns its process id."""
    pid = os.fork()
    if pid == 0:
        status = 3
        with contextlib.suppress(BaseException):
            status = _child(name, path, tree, tests, cpu_s)
        os._exit(status)
    return pid


def mirror(module: Path) -> list[str]:
    """Return the tests that hold a module of the package: the file that mirrors it, else the folder that does."""
    folder = Path("tests", *module.parts[1:-1])
    file = folder / f"test_{module.stem}.py"
    return [str(file if file.is_file() else folder)]


def try_module(module: Path, tests: list[str], given: argparse.Namespace) -> int | None:
    """Try a module's mutants and print those that survive.

    Returns:
        How many survived; None where the tests fail without any change.
    """
    name, path = ".".join(module.with_suffix("").parts), str(module)
    source = module.read_text(encoding="utf-8")
    first, last = (int(n) for n in given.lines.split("-"))
    found = [m for m in mutants(ast.parse(source)) if first <= m[0] <= last]
    if given.sample and given.sample < len(found):
        found = [found[k] for k in sorted(random.Random(0).sample(range(len(found)), given.sample))]
    _, status, used = os.wait4(_run(name, path, None, tests), 0)
    if status:
        print(f"{path}: {' '.join(tests)} fail without any change")
        return None
    cpu_s = 10 + 4 * round(used.ru_utime)
    began, running, survivors = time.monotonic(), {}, 0
    for line, what, tree in [*found, *[(0, "", None)] * given.jobs]:
        while running and (len(running) >= given.jobs or tree is None):
            pid, status = os.wait()
            place = running.pop(pid)
            if status == 0:
                survivors += 1
                print(f"{path}:{place[0]}: {place[1]}: {source.splitlines()[place[0] - 1].strip()}", flush=True)
        if tree is not None:
            running[_run(name, path, tree, tests, cpu_s)] = (line, what)
    seconds = time.monotonic() - began
    print(f"{path}: {len(found) - survivors} of {len(found)} mutants killed in {seconds:.0f} s", flush=True)
    return survivors


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="+", help="files to change, or folders of them; tests to run, below tests/")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, help="try so many mutants of each file, the same ones in every run")
    parser.add_argument("--lines", default="1-1000000", help="FIRST-LAST, mutants on these lines only")
    given = parser.parse_args()
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch._dynamo  # what the first gradient imports
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.freeze()  # else every fork walks through, and copies, what is loaded here
    sys.path.insert(0, str(Path.cwd()))
    tests = [path for path in given.paths if path.startswith("tests")]
    places = [Path(path) for path in given.paths if path not in tests]
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    left = [try_module(file, tests or mirror(file), given) for file in files]
    return 2 if None in left else int(any(left))


if __name__ == "__main__":
    sys.exit(main())
