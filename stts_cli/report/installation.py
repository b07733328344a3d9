"""What a report of a bug needs: versions, devices, kernels, decoders and paths. Text for `stts --version --verbose`."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from stts_cli.versions import installed

PACKAGES = (
    "torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "safetensors", "numpy", "av", "decord2",
    "pillow", "flash-attn", "peft", "datasets", "pyarrow", "matplotlib", "lmms-eval",
)  # fmt: skip


def describe_installation() -> list[str]:
    """Return lines "what: how it is"; a part that fails says so instead."""
    parts: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores",
        "packages": _packages,
        "devices": _devices,
        "kernels": _kernels,
        "decoders": _decoders,
        "stts": lambda: str(Path(__file__).parents[1]),
        "presets": _presets,
        "hub cache": _cache,
    }
    lines = []
    for name, describe in parts.items():
        try:
            said = describe()
        except Exception as error:  # a broken package is what such a report is written for
            said = f"fails ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
        lines.append(f"{name}: {said}")
    return lines


def _packages() -> str:
    found = installed(*PACKAGES)
    return ", ".join(f"{package} {found.get(package, 'not installed')}" for package in PACKAGES)


def _devices() -> str:
    from stts_cli.engine.device import describe_devices

    return "; ".join(describe_devices())


def _kernels() -> str:
    from stts_cli.pruning.attention import describe_kernels

    return "; ".join(describe_kernels())


def _decoders() -> str:
    from stts_cli.media.container import describe_decoders

    return describe_decoders()


def _presets() -> str:
    from stts_cli.config.presets import ENVIRONMENT_VARIABLE, config_file, preset_names, presets_folder

    named = os.environ.get(ENVIRONMENT_VARIABLE) or "not set"
    config = config_file()
    there = "" if config.is_file() else ", not there"
    return f"{presets_folder()} ({', '.join(preset_names())}); {ENVIRONMENT_VARIABLE} {named}; {config}{there}"


def _cache() -> str:
    from huggingface_hub import constants

    return f"{constants.HF_HUB_CACHE}; offline {constants.HF_HUB_OFFLINE}; {sys.executable}"
