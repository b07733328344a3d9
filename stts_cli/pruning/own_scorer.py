"""A scorer of the user's own, `--scorer module:function`: found by its name, checked whenever it scores.

The function takes the features (T, N, D) of one video after block `prune_layer` and the `Layout` of its frames, and
returns scores (T, W), high = keep. README.md has the smallest example.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from stts_cli.errors import InputError
from stts_cli.settings import Layout


def load_scorer(path: str, layout: Layout) -> Callable[[Tensor, Tensor, list[int]], Tensor]:
    """Import a scorer.

    Args:
        path: "module:function"; the module may be a file of the working folder.
        layout: how frames are cut.

    Returns:
        The scorer, which takes features (T, N, D), the window table (W, P) and the frames of each video, and returns
        float32 (T, W), without gradient.

    Raises:
        InputError: as `import_scorer`; later, when it scores: it fails, or returns another shape or what is not finite.
    """
    function = import_scorer(path)

    def score(x_TND: Tensor, window_index: Tensor, video_lengths: list[int]) -> Tensor:
        with torch.no_grad():
            return torch.cat([_checked(path, function, x, layout) for x in torch.split(x_TND.detach(), video_lengths)])

    return score


def import_scorer(path: str) -> Callable[[Tensor, Layout], Tensor]:
    """Return the function that "module:function" names; raises InputError where there is none."""
    module, _, name = path.partition(":")
    if "" not in sys.path:
        sys.path.append("")  # the working folder, as `python` has it; at the end, where it shadows nothing
    try:
        function: Callable[[Tensor, Layout], Tensor] | None = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        hint = "install it, or run in the folder that holds its file"
        raise InputError(f"--scorer {path}: there is no module '{error.name}'; {hint}.") from error
    except Exception as error:
        raise InputError(f"--scorer {path}: {module} cannot be imported ({_say(error)}); mend it.") from error
    if not callable(function):
        raise InputError(f"--scorer {path}: {module} has no function '{name}'; name one of its functions.")
    return function


def _checked(path: str, function: Callable[[Tensor, Layout], Tensor], x_TND: Tensor, layout: Layout) -> Tensor:
    try:
        scores = function(x_TND, layout)
    except Exception as error:
        raise InputError(f"--scorer {path}: fails ({_say(error)}); STTS_DEBUG=1 shows where.") from error
    wanted = (len(x_TND), layout.num_windows)
    if not isinstance(scores, Tensor) or scores.shape != wanted:
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"--scorer {path}: returns {got}; must be a tensor of shape {wanted}, frames by windows.")
    scores = scores.to(x_TND.device, torch.float32)
    if not bool(scores.isfinite().all()):
        raise InputError(f"--scorer {path}: returns scores that are no finite numbers; must be finite, high = keep.")
    return scores


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
