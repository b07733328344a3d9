"""Imports go down only: the rooms of the house, parsed from the files themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stts_cli"
# from the top: a room may import itself, the rooms below it and the modules that everyone may
ORDER = (
    "cli", "commands", "report", "profiling", "training", "evaluation", "data", "engine", "families", "pruning",
    "media", "cost", "config",
)  # fmt: skip
EVERYONE_MAY = ("settings", "text", "errors", "__init__")  # they import `errors` only
ASIDE = "toy"  # imports what it likes below `report`; others import it by name only, see MORE
# module -> modules of rooms above it, or aside, that it imports all the same
MORE = {
    "commands.finetune": {"toy.nano"},
    "training.finetune": {"toy.world_clips"},
    "evaluation.benchmarks.shapes": {"toy.questions", "toy.world"},
    "media.reader": {"toy.clips"},
    "config.architectures": {"cost.savings"},
}
# package -> rooms, or modules, that may import it
CONFINED = {
    "typer": {"cli", "commands"},
    "rich": {"report"},
    "matplotlib": {"report.plots", "report.pictures"},
    "decord": {"media.video"},
    "av": {"media.video", "media.reader", "toy.clips"},  # toy writes H.264 files
    "transformers": {"families", "engine", "training", "evaluation", "toy"},
    "click": set(),
    "torchvision": set(),
}
WITHOUT_TORCH = {*EVERYONE_MAY, "cli", "commands", "report", "cost", "config", "data", "media.video", "media.source"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


def target_of(name: str) -> str:
    """Return the module of ours that an absolute dotted name of an import lies in; it may end in a function's name."""
    parts = name.split(".")[1:]
    while parts and not PACKAGE.joinpath(*parts).with_suffix(".py").exists():
        if PACKAGE.joinpath(*parts).is_dir():
            parts.append("__init__")
            break
        parts.pop()
    return ".".join(parts) or "__init__"


def may_import(module: str, target: str) -> bool:
    room, other = room_of(module), room_of(target)
    if other == room or other in EVERYONE_MAY or target in MORE.get(module, ()):
        return True
    if room == ASIDE:
        return other in ORDER[ORDER.index("report") + 1 :]
    return room in ORDER and other in ORDER[ORDER.index(room) + 1 :]


def imported_modules(path: Path) -> list[str]:
    """Absolute dotted names a file imports, at its top or inside functions, type checking included."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    module = module_of(path)
    room = room_of(module)
    assert room in (*ORDER, *EVERYONE_MAY, ASIDE), f"{path.name}: a new room; say in ORDER where it stands"
    for name in imported_modules(path):
        package = name.partition(".")[0]
        if package == "stts_cli":
            target = target_of(name)
            assert may_import(module, target), f"{module} imports {target}"
            assert room not in EVERYONE_MAY or target == "errors", f"{module} imports {target}"
        assert {room, module} & CONFINED.get(package, {room}), f"{module} imports {name}"
        if {room, module} & WITHOUT_TORCH:
            assert package != "torch", f"{module} imports {name}"


@pytest.mark.parametrize("module", MORE)
def test_an_exception_that_nothing_needs_is_gone(module):
    path = PACKAGE / (module.replace(".", "/") + ".py")
    targets = {target_of(name) for name in imported_modules(path) if name.startswith("stts_cli.")}
    assert {target for target in targets if not may_import(room_of(module), target)} == MORE[module]


def test_families_do_not_import_each_other():
    """Only what several share (the protocol, settings, frame processing) may be imported by a family's file."""
    from stts_cli.families import FAMILIES

    modules = {module for module, _ in FAMILIES.values()}
    for module in modules:
        path = PACKAGE.parent / (module.replace(".", "/") + ".py")
        for name in imported_modules(path):
            assert not any(name == other or name.startswith(other + ".") for other in modules - {module}), name


def test_the_test_itself_sees_imports(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("import os.path\ndef f():\n    from stts_cli.media.video import probe\n")
    assert imported_modules(path) == ["os.path", "stts_cli.media.video.probe"]
    assert target_of("stts_cli.media.video.probe") == "media.video"
    assert target_of("stts_cli.profiling.profile") == "profiling.__init__"
    assert target_of("stts_cli.__version__") == "__init__"
    assert not may_import("media.video", "engine.device")
    assert not may_import("report.ask", "commands.ask")
    assert not may_import("training.model", "toy.world")
    assert may_import("toy.nano", "training.finetune")


@pytest.mark.slow
def test_the_toy_world_is_loaded_only_where_it_is_named():
    program = (
        "import sys, stts_cli.cli, stts_cli.engine.pipeline, stts_cli.evaluation.suite, stts_cli.media.reader\n"
        "import stts_cli.profiling, stts_cli.training.finetune, stts_cli.training.trainer\n"
        "assert not [name for name in sys.modules if name.startswith('stts_cli.toy')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_file_is_a_drawer():
    assert not [path for path in sources() if path.stem in {"utils", "common", "types", "helpers", "misc"}]
