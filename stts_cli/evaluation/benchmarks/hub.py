"""Fetch a benchmark from the Hugging Face hub into the hub's own cache, and unpack its archives beside it.

Repositories move, so each benchmark has several ids and the first that exists is used. A download that was interrupted
goes on where it stopped; with HF_HUB_OFFLINE=1 only what is in the cache is used.
"""

from __future__ import annotations

from pathlib import Path

from stts_cli.data.files import cache_folder
from stts_cli.data.rows import first_line
from stts_cli.errors import EnvironmentFailure, InputError
from stts_cli.evaluation.benchmarks.archives import unpack_all
from stts_cli.evaluation.benchmarks.benchmark import Benchmark

ANY_TABLE = ("**/*.parquet", "**/*.json", "**/*.jsonl", "**/*.csv")


def fetch(benchmark: Benchmark, split: str, repo: str | None = None) -> tuple[Path, ...]:
    """Download a split as far as it is not there yet; return the folders that together hold it.

    `repo` replaces the benchmark's own dataset ids. InputError for no such repository, or terms that are not accepted;
    EnvironmentFailure where the hub cannot be reached and the cache does not hold it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    name, yourself = benchmark.name, f"get it: {benchmark.where}, and name its folder with --data-dir"
    if not (repo or benchmark.repos):
        raise InputError(f"{name}: is not on the hub; {yourself}.")
    if not repo and split not in benchmark.annotations:
        raise InputError(f"--split {split}: is not in the repository of {name} on the hub; {yourself}.")
    patterns = [*benchmark.annotations.get(split, ANY_TABLE), *benchmark.media]
    tried = (repo,) if repo else benchmark.repos
    unreachable: Exception | None = None
    for each in tried:
        try:
            folder = snapshot_download(
                each, repo_type="dataset", revision=None if repo else benchmark.revision, allow_patterns=patterns
            )
        except GatedRepoError as error:
            page = (not repo and benchmark.terms) or f"https://huggingface.co/datasets/{each}"
            raise InputError(f"{each}: is gated; accept its terms at {page}, then log in: hf auth login.") from error
        except RepositoryNotFoundError:
            continue
        except OSError as error:  # every failure of the network is one; the cache may hold it under its other id
            unreachable = unreachable or error
            continue
        unpacked = cache_folder("benchmarks", name)
        unpack_all(benchmark.folder(Path(folder)).archives(), unpacked)
        return Path(folder), unpacked
    if unreachable is None:
        raise InputError(
            f"{name}: none of {', '.join(tried)} is on the hub; give another id with --hf-repo, or {yourself}."
        )
    reason = "HF_HUB_OFFLINE is set and the cache does not hold it" if HF_HUB_OFFLINE else first_line(unreachable)
    raise EnvironmentFailure(
        f"{name}: cannot be fetched from {' or '.join(tried)} ({reason}); go online"
        f"{' without HF_HUB_OFFLINE' if HF_HUB_OFFLINE else ''}, or {yourself}."
    ) from unreachable
