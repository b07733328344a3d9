"""Video-MME with subtitles: the questions of `videomme`, with what is said around the frames seen."""

from __future__ import annotations

import dataclasses

from stts_cli.evaluation.benchmarks import videomme

BENCHMARK = dataclasses.replace(
    videomme.BENCHMARK,
    name="videomme_sub",
    title="Video-MME (with subtitles)",
    load=videomme.load_with_subtitles,
    media=(*videomme.BENCHMARK.media, "subtitle.zip"),
    subtitles=True,
    remark="videos without a subtitle file are asked without",
)
