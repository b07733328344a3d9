"""Tell lmms-eval that there is a model `stts`: the payload of the entry point group `lmms_eval.models`.

Import-light on purpose: lmms-eval loads every plug-in at its start, and swallows whatever goes wrong here.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return lmms-eval's manifest of the model; called by lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="stts", simple_class_path="stts_cli.evaluation.lmms_eval_model.Stts")
