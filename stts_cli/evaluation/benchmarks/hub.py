"""Fetch a benchmark from the Hugging Face hub into the hub's own cache, and unpack its archives beside it.

Repositories move, so each benchmark has several ids and the first that exists is used. A download that was interrupted
goes on where it stopped; with HF_HUB_OFFLINE=1 only what is in the cache is used.
"""

from __future__ import annotations

import os
from pathlib import Path

from stts_cli.data.files import ARCHIVES
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.evaluation.benchmarks.archives import unpack_all
from stts_cli.evaluation.benchmarks.benchmark import Benchmark

ANY_TABLE = ("**/*.parquet", "**/*.json", "**/*.jsonl", "**/*.csv")


def unpack_folder(name: str) -> Path:
    """Return where archives are unpacked: $XDG_CACHE_HOME/stts/benchmarks/NAME, ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stts" / "benchmarks" / name


def fetch(benchmark: Benchmark, split: str, repo: str | None = None) -> tuple[Path, ...]:
    """Download the questions and videos of a split, as far as they are not there yet.

    Args:
        benchmark: which.
        split: of it.
        repo: a dataset id that replaces the benchmark's own.

    Returns:
        Folders that together hold it: the download, and what was unpacked.

    Raises:
        InputError: no such repository, or terms that are not accepted.
        EnvironmentFailure: the hub cannot be reached and the cache does not hold it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if not (repo or benchmark.repos):
        raise InputError(f"{benchmark.name} is not on the hub -> get it: {benchmark.where} -> --data-dir")
    if not repo and split not in benchmark.annotations:
        raise InputError(
            f"the split '{split}' of {benchmark.name} is not in its repository on the hub -> get it: {benchmark.where} "
            "-> --data-dir"
        )
    patterns = [*benchmark.annotations.get(split, ANY_TABLE), *benchmark.media]
    tried = [repo] if repo else list(benchmark.repos)
    unreachable: Exception | None = None
    for name in tried:
        page = (not repo and benchmark.terms) or f"https://huggingface.co/datasets/{name}"
        try:
            root = snapshot_download(
                name, repo_type="dataset", revision=None if repo else benchmark.revision, allow_patterns=patterns
            )
        except GatedRepoError as error:
            raise InputError(f"{name} is gated -> accept its terms at {page}, then log in: hf auth login") from error
        except RepositoryNotFoundError:
            continue
        except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
            unreachable = unreachable or error  # the cache may hold it under its other id
            continue
        folder = Path(root)
        unpacked = unpack_folder(benchmark.name)
        unpack_all({path for pattern in ARCHIVES for path in folder.glob(f"**/{pattern}")}, unpacked)
        return folder, unpacked
    if unreachable is None:
        raise InputError(
            f"none of {', '.join(tried)} is on the hub -> get it: {benchmark.where} -> --hf-repo or --data-dir"
        )
    line = (str(unreachable).strip().splitlines() or [type(unreachable).__name__])[0]
    reason = "HF_HUB_OFFLINE is set and the cache does not hold it" if HF_HUB_OFFLINE else line[:160]
    raise EnvironmentFailure(
        f"{benchmark.name} cannot be fetched from {' or '.join(tried)} ({reason}) -> go online"
        f"{' without HF_HUB_OFFLINE' if HF_HUB_OFFLINE else ''}, or get it yourself: {benchmark.where} -> --data-dir"
    ) from unreachable
