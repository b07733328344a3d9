"""TempCompass: order, direction, speed, action and change of attributes, asked in three ways about altered clips.

Multiple choice, yes/no and caption matching; the fourth task (captioning) needs a language model as judge and is left
out. Copies of a clip that are reversed or slowed down are different videos and stay so.
"""

import random
from collections import Counter
from collections.abc import Iterator

from stts_cli.data.files import DataFolder
from stts_cli.data.items import QaItem, bare, letters_of_text, split_question
from stts_cli.data.prompts import option_lines
from stts_cli.data.rows import Row, flatten, read_json, read_rows
from stts_cli.evaluation import published, scoring
from stts_cli.evaluation.benchmarks.benchmark import Benchmark, build_items, text_of

TASKS = ("multi-choice", "yes_no", "caption_matching")
BEST, YES_NO = "Please directly give the best option:", "Please answer yes or no:"


def prompt(item: QaItem) -> str:
    """The question as its publishers wrote it, and a short cue."""
    (task,) = item.groups["task"]
    if task == "yes_no":
        return f"{item.question}\n{YES_NO}"
    if task == "caption_matching":
        return "\n".join([item.question, *item.options, BEST])
    return "\n".join([item.question, option_lines(item), BEST])


def strict(text: str, item: QaItem, rng: random.Random) -> scoring.Verdict:
    """The program's own rule; yes and no are two options without letters."""
    if item.options:
        return scoring.strict(text, item, rng)
    index = scoring.read_option(text, ("yes", "no"), "")
    said = None if index is None else ("yes", "no")[index]
    return scoring.Verdict(said, said in item.right)


def others(caption: scoring.Scorer) -> scoring.Scorer:
    """Return the rules of others, a task each, without the language model that they ask where these fail."""
    rules = dict(zip(TASKS, (published.option_line, published.yes_or_no, caption), strict=True))
    return lambda text, item, rng: rules[item.groups["task"][0]](text, item, rng)


def load(folder: DataFolder, split: str) -> list[QaItem]:
    """Read `<task>/test-*.parquet`, or the publishers' `questions/<task>.json`."""
    path = folder.find(*(f"**/{task}/test-*.parquet" for task in TASKS), *(f"**/{task}.json" for task in TASKS))
    numbers: Counter[str] = Counter()

    def make(row: Row) -> QaItem:
        video, task, dim = text_of(row, "video_id"), row["task"], text_of(row, "dim")
        key = f"{task}/{video}/{dim}"
        numbers[key] += 1
        question, options, answer = _read(task, text_of(row, "question"), text_of(row, "answer"))
        return QaItem(
            id=f"{key}/{numbers[key] - 1}",
            video=video,
            source=folder.source(video),
            question=question,
            options=options,
            answer=answer,
            groups={"task": (task,), "dim": (dim,), "task and dim": (f"{task}, {dim}",)},
            guess=0.5 if task == "yes_no" else None,
        )

    return build_items(path, _rows(folder), make)


def _read(task: str, question: str, answer: str) -> tuple[str, tuple[str, ...], str]:
    if task == "yes_no":
        return question, (), answer.lower().rstrip(".")
    if task == "multi-choice":
        stem, options = split_question(question)
        right = letters_of_text(bare(answer), options)
    else:
        lines = [line.strip() for line in question.splitlines() if line.strip()]
        options = tuple(line for line in lines if ": " in line)[-2:]
        stem = "\n".join(line for line in lines if line not in options)
        right = letters_of_text(answer, options)
    if not right:
        raise ValueError(f"the answer '{answer}' is none of the question's options")
    return stem, options, right[0]


def _rows(folder: DataFolder) -> Iterator[Row]:
    for task in TASKS:
        for path in folder.find_all(f"**/{task}/test-*.parquet", f"**/{task}.json"):
            nested = path.suffix == ".json"
            rows = flatten(read_json(path), "video_id", "dim") if nested else read_rows(path)
            yield from ({**row, "task": task} for row in rows)


BENCHMARK = Benchmark(
    name="tempcompass",
    title="TempCompass (multiple choice, yes/no, caption matching)",
    load=load,
    questions=5536,
    videos=410,
    download="0.4 GB",
    repos=("lmms-eval/TempCompass", "lmms-lab/TempCompass"),
    annotations={"test": tuple(f"{task}/test-*.parquet" for task in TASKS)},
    media=("tempcompass_videos.zip",),
    where="https://huggingface.co/datasets/lmms-lab/TempCompass, or github.com/llyx97/TempCompass",
    prompt=prompt,
    scorers=scoring.rules(
        strict=strict,
        relaxed=strict,
        molmo2=others(published.option_line_molmo2),  # scored like multiple choice
        official=others(published.caption),
    ),
    max_new_tokens=192,
    remark="captioning, which needs a judge model, is left out; --scoring official and molmo2 ask none",
)
