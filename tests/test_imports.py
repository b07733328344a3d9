"""Imports go down only: the contracts of pyproject.toml, and what they cannot say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import stts_cli
from stts_cli.families import FAMILIES

PACKAGE = Path(stts_cli.__file__).parent


def test_the_contracts_are_kept():
    program = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(no_cache=True, no_logo=True))"
    run = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_families_do_not_import_each_other():
    """Only what several share (the protocol, settings, frame processing) may be imported by a family's file."""
    graph = grimp.build_graph("stts_cli", cache_dir=None)
    modules = {module for module, _ in FAMILIES.values()}
    for module in modules:
        assert not modules & graph.find_modules_directly_imported_by(module), module


@pytest.mark.slow
def test_the_toy_world_is_loaded_only_where_it_is_named():
    program = (
        "import sys, stts_cli.cli, stts_cli.engine.ask, stts_cli.evaluation.suite, stts_cli.media.reader\n"
        "import stts_cli.profiling, stts_cli.training.finetune, stts_cli.training.trainer\n"
        "assert not [name for name in sys.modules if name.startswith('stts_cli.toy')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_file_is_a_drawer():
    assert not {path.stem for path in PACKAGE.rglob("*.py")} & {"utils", "common", "types", "helpers", "misc"}
