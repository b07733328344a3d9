"""Where the weights of a model larger than the card are: spread over GPUs, the CPU's memory and the disk.

accelerate moves what a part of the language model is given to where that part is, and reads weights that are elsewhere
when they are needed. The vision encoder, inside which windows are dropped, must be on one device as a whole.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from stts_cli.errors import InputError, suggest

AUTO = "auto"


def read_device_map(device_map: str) -> str | dict[str, int | str]:
    """Return the `device_map` of `from_pretrained`: "auto", or what a YAML or JSON file says.

    Raises:
        InputError: no such file, or other things in it than names of modules and their devices.
    """
    if device_map == AUTO:
        return AUTO
    try:
        found = yaml.safe_load(Path(device_map).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"--device-map {device_map}: must be auto, or a YAML or JSON file that can be read."
        ) from error
    good = isinstance(found, dict) and found and all(isinstance(name, str) for name in found)
    if not good or not all(type(device) in (int, str) for device in found.values()):
        raise InputError(
            f"--device-map {device_map}: must name a device for each module, such as model.visual: 0 and lm_head: cpu."
        )
    for device in found.values():
        number = str(device).removeprefix("cuda:").replace("cuda", "0")
        if device not in ("cpu", "disk") and not (number.isdigit() and int(number) < torch.cuda.device_count()):
            raise InputError(
                f"--device-map {device_map}: names the device {device}; here are cpu, disk and "
                f"{torch.cuda.device_count()} CUDA devices, counted from 0."
            )
    return dict(found)


def offload_folder() -> str:
    """Return a folder for weights that are kept on the disk, which goes with this process."""
    folder = tempfile.mkdtemp(prefix="stts-weights-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def seeing_device(
    model: Any, part_names: Mapping[str, str], device_map: str, places: Mapping[str, Any]
) -> torch.device:
    """Return the device of a model's vision encoder and connector.

    Args:
        model: a stock model, loaded.
        part_names: of its family.
        device_map: for the message.
        places: what a file says, by module.

    Raises:
        InputError: they are on several devices, or not loaded; a name of the file is no module's.
    """
    known = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    if unknown := [name for name in places if name not in known]:
        raise InputError(
            f"--device-map {device_map}: {unknown[0]}: is no module of the model{suggest(unknown[0], known)}"
        )
    parts = [part_names[part] for part in ("vit", "connector")]
    devices = {weight.device for name, weight in model.named_parameters() if any(part in f".{name}" for part in parts)}
    if len(devices) != 1 or torch.device("meta") in devices:
        where = ", ".join(sorted("elsewhere" if each.type == "meta" else str(each) for each in devices))
        raise InputError(
            f"--device-map {device_map}: puts the vision encoder and the connector on {where}; both must be on one "
            "device as a whole. Name it in a file."
        )
    return devices.pop()
