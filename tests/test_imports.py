"""Imports go down only: the rooms of the house, parsed from the files themselves."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "stts_cli"
BELOW_COMMANDS = {
    "text", "video", "resize", "generate", "families", "pruning", "budget", "scorers", "savings", "device",
    "errors", "__init__",
}  # fmt: skip

# room -> rooms it may import; a room may always import itself
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "budget": {"errors"},
    "scorers": {"errors"},
    "savings": {"errors"},
    "presets": {"scorers", "errors"},
    "architectures": {"presets", "savings", "errors"},
    "estimate": {"architectures", "scorers", "budget", "savings", "errors", "__init__"},
    "plots": {"text", "errors"},
    "device": {"errors"},
    "resize": {"errors"},
    "video": {"resize", "errors"},
    "visual": {"plots", "errors"},
    "pruning": {"budget", "scorers", "errors"},
    "generate": {"device", "errors"},
    "families": {"resize", "pruning", "budget", "savings", "architectures", "device", "errors"},
    "shapes": {"errors"},
    "pipeline": BELOW_COMMANDS,
    "profiling": BELOW_COMMANDS | {"pipeline", "architectures", "estimate", "training"},
    "training": BELOW_COMMANDS | {"shapes", "benchmarks"},  # questions are worded, and clips read, as eval does it
    "benchmarks": BELOW_COMMANDS | {"pipeline", "shapes", "estimate"},
    "text": set(),
    "terminal": {"text", "errors"},
    "report": {"terminal", "errors", "__init__"},
    "report_profile": {"report", "terminal", "errors", "__init__"},
    "report_eval": {"report", "terminal"},
    "report_finetune": {"terminal"},
    "cli_finetune": {"report_finetune", "training", "presets", "errors"},
    "cli_eval": {"report_eval", "benchmarks", "resize", "presets", "plots", "errors"},
    "cli": {
        "cli_eval",
        "cli_finetune",
        "report",
        "report_profile",
        "terminal",
        "plots",
        "architectures",
        "estimate",
        "pipeline",
        "benchmarks",
        "training",
        "profiling",
        "visual",
        "video",
        "resize",
        "presets",
        "savings",
        "errors",
        "__init__",
    },
}
# package -> rooms that may import it
CONFINED = {
    "typer": {"cli", "cli_eval", "cli_finetune"},
    "rich": {"terminal", "report", "report_profile", "report_eval", "report_finetune"},
    "matplotlib": {"plots", "visual"},
    "decord": {"video"},
    "av": {"video", "shapes", "benchmarks"},  # shapes writes H.264 files, benchmarks read folders of jpg frames
    "transformers": {"families", "generate", "pipeline", "training", "benchmarks"},
    "click": set(),
    "torchvision": set(),
}
WITHOUT_TORCH = {
    "__init__",
    "errors",
    "savings",
    "presets",
    "architectures",
    "estimate",
    "video",
    "plots",
    "text",
    "terminal",
    "report",
    "report_profile",
    "cli",
    "cli_eval",
    "cli_finetune",
    "report_eval",
    "report_finetune",
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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
    room = room_of(path)
    assert room in ALLOWED, f"{path.name}: a new room; say in ALLOWED what it may import"
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "stts_cli":
            target = parts[1] if (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").exists() else "__init__"
            assert target == room or target in ALLOWED[room], f"{room} imports {name}"
        assert room in CONFINED.get(parts[0], {room}), f"{room} imports {name}"
        if room in WITHOUT_TORCH:
            assert parts[0] != "torch", f"{room} imports {name}"


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
    path.write_text("import os.path\ndef f():\n    from stts_cli.video import probe\n")
    assert imported_modules(path) == ["os.path", "stts_cli.video.probe"]


def test_no_file_is_a_drawer():
    assert not [path for path in sources() if path.stem in {"utils", "common", "types", "helpers", "misc"}]
