"""pyproject.toml holds what the code imports, and what is said about installing is what it holds."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from stts_cli.errors import install_command
from tests.conftest import is_left_out

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "stts_cli"
# loaded by lmms-eval and vLLM themselves, whose packages bring what they import
PLUG_IN = {
    PACKAGE / "evaluation" / "lmms_eval_model.py",
    PACKAGE / "evaluation" / "lmms_eval_plugin.py",
    PACKAGE / "serving" / "plugin.py",
    PACKAGE / "serving" / "qwen3_vl.py",
}
NOT_IMPORTED = {"tensorboard", "bitsandbytes"}  # by name only: Trainer does it, and from_pretrained


def project() -> dict:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    import tomllib

    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def imported() -> dict[str, set[str]]:
    """Distribution -> files that import it, inside functions too."""
    known = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in set(PACKAGE.rglob("*.py")) - PLUG_IN:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"stts_cli"}:
                (distribution, *_) = known.get(module, [module])
                found.setdefault(normal(distribution), set()).add(str(path.relative_to(PACKAGE)))
    return found


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    extras = project()["optional-dependencies"]
    for_users = {name: names(needs) for name, needs in extras.items() if name != "dev"}
    declared = names(project()["dependencies"]).union(*for_users.values())
    found = imported()
    assert {name: files for name, files in found.items() if name not in declared} == {}, "imported, not declared"
    assert declared - set(found) == NOT_IMPORTED, "declared, not imported"
    assert names(project()["dependencies"]).isdisjoint(set().union(*for_users.values())), "in the base already"


def test_dev_holds_the_extras_that_the_tests_need():
    assert project()["optional-dependencies"]["dev"][0] == "stts-cli[train,eval,plot]"
    assert project()["name"] == "stts-cli"
    assert project()["scripts"] == {"stts": "stts_cli.cli:main"}


def test_every_hint_at_an_installation_is_one_that_works():
    """On PyPI `stts` is another project, and the distribution's own name is not there yet: a clone it is."""
    code = [path for path in PACKAGE.rglob("*.py") if path.name != "errors.py"]
    guides = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "presets").rglob("*.md"), *PACKAGE.rglob("*.md")]
    extras = "|".join(project()["optional-dependencies"])
    good = re.compile(rf"pip install (--no-deps )?(-e )?(\.|'\.\[({extras})\]'|\"\.\[({extras})\]\")(?=[\s`)]|$)")
    num_hints = 0
    for path in [*code, *guides]:
        text = path.read_text(encoding="utf-8")
        for hint in re.findall(r"\bpip3? install.*|\bstts(?:-cli)?\[.*|install_(?:hint|command)\(.*", text):
            num_hints += 1
            if path.suffix == ".py":
                assert re.match(rf"install_(hint|command)\((|'({extras})'|\"({extras})\" if .*)\)", hint), (
                    f"{path}: {hint}"
                )
            else:
                assert good.match(hint) or hint == "pip install vllm", f"{path}: {hint}"
    assert num_hints > 12
    assert good.match(install_command())
    assert good.match(install_command("plot"))


@pytest.mark.parametrize(
    ("markers", "expression", "left_out"),
    [
        (set(), "", False),
        ({"slow", "gpu"}, "", False),
        ({"hostile"}, "", True),
        ({"serving", "slow"}, "not slow", True),
        ({"browser"}, "hostile or serving or browser", False),
    ],
)
def test_what_takes_long_or_a_server_runs_only_where_it_is_named(markers, expression, left_out):
    assert is_left_out(markers, expression) == left_out
