"""Measure reading, from the repository's root; no test. Files are written to FOLDER once and stay there (3 GB).

    python -m tests.media.measure memory FOLDER   the reader process's peak for 64 frames of 10 s, 60 s and 60 min
    python -m tests.media.measure time FOLDER     processor time for 64 frames of 30 min of 1080p H.264, against loops

Processor time is of a fresh process and its children, imports included; ours also resizes, the loops do not.
"""

from __future__ import annotations

import math
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stts_cli.media.reader import Readers
from stts_cli.media.source import ReadRequest, Source

NUM_FRAMES = 64
RATE = 25
SIZE = (378, 378)
REPEATS = 9


def write_clip(path: Path, seconds: int, size: tuple[int, int]) -> Path:
    """Write blocks of colour that move under noise, a key frame every ten seconds."""
    import av

    height, width = size
    chance = np.random.default_rng(0)
    blocks = np.kron(chance.integers(0, 255, (height // 60 + 1, width // 60 + 1, 3)), np.ones((60, 60, 1)))[
        :height, :width
    ]
    noise = chance.integers(-12, 12, (height + 400, width + 400, 1))
    with av.open(str(path), "w") as container:
        options = {"g": str(10 * RATE), "preset": "veryfast", "crf": "23"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(seconds * RATE):
            y, x = index * 2 % 400, index * 3 % 400
            pixels = np.clip(blocks + noise[y : y + height, x : x + width], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def repeat(source: Path, target: Path, times: int) -> Path:
    """Write a clip's packets several times, one after the other."""
    import av

    with av.open(str(target), "w") as container:
        stream, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as clip:
                from_stream = clip.streams.video[0]
                stream = stream or container.add_stream_from_template(from_stream)
                for packet in clip.demux(from_stream):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        container.mux(packet)
                offset += from_stream.duration or 0
    return target


def once(path: Path, write: Callable[[Path], object]) -> Path:
    if not path.exists():
        write(path)
    return path


def read_ours(path: Path) -> list[float]:
    """Read in a reader process, and return the times of the frames and that process's peak in MB at the end."""
    with Readers(1) as readers:
        (result,) = readers.read([ReadRequest(Source(path), NUM_FRAMES, math.inf, SIZE)])
        assert result.clip is not None, result.error
        assert len(result.clip.frames) == NUM_FRAMES
        status = Path(f"/proc/{readers.pool[0].process.pid}/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return [*result.clip.timestamps_s, peak_mb]


def read_by_pyav(path: Path, leaves_out: bool) -> list[float]:
    """Jump to each frame and decode from the key frame before it."""
    import av

    frames, seconds = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = stream.codec_context
        decoder.thread_count = 1
        step = round(1 / (RATE * stream.time_base))
        for index in np.linspace(0, stream.frames - 1, NUM_FRAMES).round().astype(int):
            wanted, found = int(index) * step + (stream.start_time or 0), None
            container.seek(wanted, stream=stream)
            for packet in container.demux(stream):
                if leaves_out:
                    decoder.skip_frame = "DEFAULT" if packet.pts == wanted else "NONREF"
                found = next((frame for frame in packet.decode() if frame.pts >= wanted), None)
                if found:
                    break
            assert found
            frames.append(found.to_ndarray(format="rgb24"))
            seconds.append(float(found.pts * stream.time_base))
    return seconds


def read_by_decord(path: Path) -> list[float]:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    wanted = np.linspace(0, len(reader) - 1, NUM_FRAMES).round().astype(int)
    reader.get_batch(wanted).asnumpy()
    return [float(reader.get_frame_timestamp(int(index))[0]) for index in wanted]


ARMS: dict[str, Callable[[Path], list[float]]] = {
    "ours": read_ours,
    "pyav": lambda path: read_by_pyav(path, leaves_out=False),
    "pyav-nonref": lambda path: read_by_pyav(path, leaves_out=True),
    "decord": read_by_decord,
}


def processor_s(arm: str, path: Path) -> float:
    """Return the processor time of a fresh process that reads with one of `ARMS`, and of its children."""
    command = [sys.executable, "-m", "tests.media.measure", arm, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_time(folder: Path) -> None:
    minute = once(folder / "minute.mp4", lambda path: write_clip(path, 60, (1080, 1920)))
    long = once(folder / "long.mp4", lambda path: repeat(minute, path, 30))
    singles = {arm: processor_s(arm, long) for arm in ARMS}
    print("once:", {arm: round(seconds, 1) for arm, seconds in singles.items()}, flush=True)
    best = min(set(ARMS) - {"ours"}, key=lambda arm: singles[arm])
    ratios = []
    for turn in range(REPEATS):
        order = ("ours", best) if turn % 2 else (best, "ours")
        seconds = {arm: processor_s(arm, long) for arm in order}
        ratios.append(seconds["ours"] / seconds[best])
        print(f"ours {seconds['ours']:.1f} s, {best} {seconds[best]:.1f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median of {REPEATS}: {statistics.median(ratios):.3f} times {best}")


def measure_memory(folder: Path) -> None:
    clip = once(folder / "ten.mp4", lambda path: write_clip(path, 10, (720, 1280)))
    hour = once(folder / "hour.mp4", lambda path: repeat(clip, path, 360))
    minute = once(folder / "sixty.mp4", lambda path: repeat(clip, path, 6))
    peaks = {path.name: read_ours(path)[-1] for path in (clip, minute, hour)}
    print(peaks, f"the hour's by the ten seconds': {peaks[hour.name] / peaks[clip.name]:.3f}")


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    if what in ARMS:
        ARMS[what](where)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        print(sum(each.ru_utime + each.ru_stime for each in used))
    else:
        {"time": measure_time, "memory": measure_memory}[what](where)
