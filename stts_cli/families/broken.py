"""Say which file of a checkpoint is broken, whatever the library that stumbled over it says.

A truncated download, a file of another format and a value of the wrong type end in any of a dozen exceptions of
transformers, tokenizers, safetensors and our own code. Whatever escapes from loading is the checkpoint's fault, unless
memory or a package is missing, or the hub cannot be reached.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from stts_cli.errors import EnvironmentFailure, InputError, SttsError, is_out_of_memory
from stts_cli.families.checkpoints import Checkpoint

Load = TypeVar("Load", bound=Callable[..., Any])
# each a JSON object
SMALL = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json",
    "stts.json", "adapter_config.json", "model.safetensors.index.json",
)  # fmt: skip
LARGE = ("vocab.json", "tokenizer.json")


def loads_checkpoint(load: Load) -> Load:
    """Decorate a function whose first argument is a checkpoint, so that a broken one ends in an `InputError`."""

    @functools.wraps(load)
    def guarded(model: str | Path, *arguments: Any, **options: Any) -> Any:
        try:
            return load(model, *arguments, **options)
        except (SttsError, ImportError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _explain(str(model), error) from error

    return guarded  # type: ignore[return-value]


def check_json_files(chain: Iterable[Checkpoint]) -> None:
    """Refuse a broken file that transformers would pass over in silence; of folders, the small files of each."""
    for checkpoint in chain:
        if checkpoint.is_local:
            _check_json_files(Path(checkpoint.model), SMALL)


def check_words(family: Any) -> None:
    """Use the tokenizer and the tokens that end an answer once: a broken value shows only then."""
    family.tokenizer("?")
    _check_ids(family.eos_token_ids)


def _check_ids(ids: Any) -> None:
    for token in [ids] if ids is None or isinstance(ids, int) else ids:
        if token is not None and not isinstance(token, int):
            raise TypeError(f"eos_token_id {token!r} is no token's number")


def _explain(model: str, error: Exception) -> SttsError:
    """Look for the file that is broken among those on this machine; the hub is not asked again."""
    folders, needs_hub = _folders(model)
    try:
        for folder in folders:
            _check_json_files(folder, (*SMALL, *LARGE))
    except InputError as found:
        return found
    line = " ".join(str(error).split())[:200]
    if isinstance(error, OSError) and needs_hub:
        return EnvironmentFailure(
            f"--model {model}: cannot be loaded ({line}). Check the name, a folder or a hub id, its revision, and the "
            "network."
        )
    files = _stumbled_over(folders[-1]) if folders else "one of its files"
    return InputError(f"--model {model}: {files} cannot be loaded ({type(error).__name__}: {line}). Restore it.")


def _folders(model: str) -> tuple[list[Path], bool]:
    """Return the folder of a checkpoint and those of its bases, of a hub id the one in the cache; whether one is."""
    from huggingface_hub import try_to_load_from_cache

    folders: list[Path] = []
    needs_hub = False
    for _ in range(8):  # no chain is longer, unless it bites its tail
        folder = Path(model).expanduser()
        if not folder.is_dir():
            needs_hub, cached = True, None
            with contextlib.suppress(ValueError):  # no name of a repository
                cached = try_to_load_from_cache(model, "config.json")
            if not isinstance(cached, str):
                break
            folder = Path(cached).parent
        folders.append(folder)
        try:
            base = json.loads((folder / "stts.json").read_text(encoding="utf-8"))["base_model"]
            model = str(folder / base) if base.startswith("./") or base.startswith("../") else base
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            break
    return folders, needs_hub


def _stumbled_over(folder: Path) -> str:
    """Return which of a whole model's files cannot be loaded alone."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    def of_folder(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    def read_processing() -> None:
        from stts_cli.families import class_of

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        class_of(config.model_type, str(folder)).processing(config, Checkpoint(str(folder), None), {})

    parts: dict[str, Callable[[], Any]] = {
        "config.json": lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False),
        "generation_config.json": lambda: _check_ids(GenerationConfig.from_pretrained(folder).eos_token_id),
        "tokenizer.json or tokenizer_config.json": lambda: AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )("?"),
        "video_preprocessor_config.json or processor_config.json": read_processing,
        "preprocessor_config.json": read_processing,
    }
    for files, load in parts.items():
        if of_folder(files.split()[0]) is not None:
            try:
                load()
            except Exception:
                return files
    return "one of its files"


def _check_json_files(folder: Path, names: Iterable[str]) -> None:
    for path in (folder / name for name in names):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}). Restore the file.") from error
        if not isinstance(document, dict):
            raise InputError(f"{path}: holds a {type(document).__name__}; must be a JSON object. Restore the file.")
