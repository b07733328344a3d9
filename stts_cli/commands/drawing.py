"""The files that `ask` draws of one video: a picture or a video of what was kept, and a page for a browser."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stts_cli.errors import InputError

if TYPE_CHECKING:
    from stts_cli.engine.ask import AskRun
    from stts_cli.report.pictures import Kept

PAGE_PIXELS, VIDEO_PIXELS = 480, 960  # of the longer edge of a frame, at most


@dataclass(frozen=True)
class Drawing:
    """What `--save-kept` and `--report` name."""

    save_kept: str | None
    report: str | None

    @property
    def is_wanted(self) -> bool:
        """Whether anything is drawn."""
        return bool(self.save_kept or self.report)

    def check(self, num_videos: int) -> None:
        """Refuse, before anything runs, what could not be written, and either for several videos."""
        from stts_cli.report.plots import check_target

        wanted = ("--save-kept", self.save_kept, (".png", ".mp4")), ("--report", self.report, (".html",))
        for flag, target, suffixes in wanted:
            if target:
                check_target(target, flag, *suffixes)
                if num_videos > 1:
                    raise InputError(f"{flag}: is of one video; ask the videos one by one.")

    def draw(self, run: AskRun) -> None:
        """Write them; EnvironmentFailure where that fails."""
        from stts_cli.report import pictures
        from stts_cli.report.ask_page import write_page
        from stts_cli.report.notebook import kept_png

        first = run.arms[0]
        if self.save_kept and self.save_kept.lower().endswith(".png"):
            pictures.save_kept(self.save_kept, kept_png(first.video), pictures.Kept.of(first.video))
        elif self.save_kept:
            pictures.save_kept_video(self.save_kept, _kept(run, VIDEO_PIXELS)[first.name])
        if self.report:
            write_page(self.report, run.to_dict(), _kept(run, PAGE_PIXELS))


def _kept(run: AskRun, longest: int) -> dict[str, Kept]:
    """Return what each arm kept, on frames in the file's own aspect ratio; they are read once more."""
    from stts_cli.engine.original import read_original
    from stts_cli.report.pictures import Kept

    requests = {arm.name: arm.model.request(run.source) for arm in run.arms}
    frames = {requests[arm.name]: read_original(arm.video.clip, requests[arm.name], longest) for arm in run.arms}
    return {arm.name: dataclasses.replace(Kept.of(arm.video), frames=frames[requests[arm.name]]) for arm in run.arms}
