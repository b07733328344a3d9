"""Measure dense against pruned on one machine in one run: time by stage, memory, and what the FLOPs promise.

In: an architecture (with a checkpoint's weights or random ones), frame counts, keep ratios. Out: one document, which
report/profile.py prints. Every pass takes the whole path: frames in memory, patches, ViT, connector, prefill,
a few decoded tokens. The arms take turns, and the order of the turns changes, so that a machine that slows down or
speeds up does not favour one. Each arm runs once at full size before anything is timed.

A time is wall clock after the device has finished. Peak memory is what a pass holds above the loaded model and the
decoded frames: on a GPU the allocator's own count, on a CPU the resident memory of a process of its own for each arm,
so that no arm profits from what another left behind. Reading the file is timed once and belongs to neither arm.
Source for what is compared: arXiv 2603.18004, efficiency.
"""

from __future__ import annotations

from stts_cli.profiling.passes import Job
from stts_cli.profiling.run import architecture_of, check_flags, profile

__all__ = ["Job", "architecture_of", "check_flags", "profile"]
