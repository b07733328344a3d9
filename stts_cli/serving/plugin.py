"""What vLLM calls as it starts: register the pruned model, on releases that it was tested with."""

from __future__ import annotations

import functools
import logging
from typing import Any

ARCHITECTURES = ("Qwen3VLSttsForConditionalGeneration", "Qwen3VLMoeSttsForConditionalGeneration")
SUPPORTED = ((0, 32), (0, 33))  # releases of vLLM, major and minor: another one may place tokens wrongly
_LOG = logging.getLogger("vllm.stts")  # shown as vLLM's own lines are


def register() -> None:
    """Make `ARCHITECTURES` known to vLLM; a second call changes nothing."""
    import vllm

    if not is_supported(vllm.__version__):
        known = " and ".join(f"{major}.{minor}" for major, minor in SUPPORTED)
        _LOG.error("stts: is made for vLLM %s, this is %s; it is not registered.", known, vllm.__version__)
        return
    from vllm import ModelRegistry

    for name in set(ARCHITECTURES) - set(ModelRegistry.get_supported_archs()):
        ModelRegistry.register_model(name, f"stts_cli.serving.qwen3_vl:{name}")
    _let_cpu_runner_strip_columns()


def is_supported(version: str) -> bool:
    """Return whether a release of vLLM is one of `SUPPORTED`."""
    parts = version.split(".")
    return len(parts) > 1 and tuple(int(p) if p.isdecimal() else -1 for p in parts[:2]) in SUPPORTED


def _let_cpu_runner_strip_columns() -> None:
    """Let vLLM's runner for CPUs ask the model for positions, as its runner for GPUs does.

    The one patch of vLLM: it sets this flag on GPUs only, and without it the columns that say where a row stands would
    reach the language model.
    """
    try:
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    except ImportError:  # a build for GPUs
        return
    load = CPUModelRunner.load_model
    if getattr(load, "strips_columns", False):
        return

    @functools.wraps(load)
    def load_model(self: Any, *args: Any, **given: Any) -> None:
        load(self, *args, **given)
        if type(self.get_model()).__name__ in ARCHITECTURES:
            self.is_multimodal_pruning_enabled = True

    load_model.strips_columns = True  # type: ignore[attr-defined]
    CPUModelRunner.load_model = load_model
