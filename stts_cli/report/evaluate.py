"""Show an evaluation: tables of accuracy beside cost, and the list of benchmarks.

In: the document of `evaluation.suite.run_benchmarks`. Out: text; tables and JSON on stdout, notes on stderr. No torch.
"""

from __future__ import annotations

from rich.table import Table

from stts_cli.report.terminal import Document, Screen, plain_table, print_json, print_lines, print_note
from stts_cli.report.units import format_seconds, format_si

COLUMNS = 4  # arms beside each other
COSTS = {"tokens_ratio": "tokens", "flops_ratio": "FLOPs", "seconds_ratio": "time"}  # of a suite; times if asked for


def show_evaluation(document: Document, *, json_only: bool) -> None:
    """Print a result.

    Args:
        document: of a benchmark, or of a suite.
        json_only: the document instead of tables.
    """
    for each in document.get("benchmarks", [document]):
        for line in each["notes"]:
            print_note(f"{each['bench']}: {line}")
        if each.get("missing"):
            listed = ", ".join(each["missing"][:5]) + (", ..." if len(each["missing"]) > 5 else "")
            print_note(f"{each['bench']}: {len(each['missing'])} videos are missing: {listed}")
    if json_only:
        print_json(document)
    elif "benchmarks" in document:
        Screen().show(*_suite_tables(document))
    else:
        Screen().show(*_header_lines(document), *_tables(document), *_footer_lines(document))


def show_list(rows: list[Document], *, json_only: bool) -> None:
    """Print the benchmarks there are.

    Args:
        rows: from `evaluation.benchmarks.registry.describe`.
        json_only: as JSON.
    """
    if json_only:
        print_json(rows)
    else:
        print_lines(*_list_lines(rows))


def _list_lines(rows: list[Document]) -> list[str]:
    """Return two lines a benchmark: figures, and what one must know to use it."""
    lines = [f"{'name':16} {'class':5} {'questions':>9} {'videos':>6}  download"]
    for row in rows:
        counts = [f"{row[key]:,}" if row[key] else "" for key in ("questions", "videos")]
        lines.append(f"{row['name']:16} {row['class']:5} {counts[0]:>9} {counts[1]:>6}  {row['download'] or '?'}")
        terms = f"accept the terms at {row['terms']}" if row["terms"] else "open"
        splits, scorings = ", ".join(row["splits"]), ", ".join(row["scorings"])
        lines.append(f"    splits {splits}; scoring {scorings}; licence: {row['licence']}; {terms}")
    return [
        *lines,
        "Defaults come first. A file of your own: --bench items.jsonl, .json, .csv. Suites: all-short, all-long, all.",
    ]


def _header_lines(document: Document) -> list[str]:
    config, arms = document["config"], document["arms"]
    demonstration = " (demonstration model)" if document["is_demonstration"] else ""
    first = next(iter(arms.values()))
    lines = [
        f"{document['bench']}, {document['split']} split, {document['title']}: {first['videos']} clips, "
        f"{first['n_total']:,} questions, {document['scoring']} scoring{demonstration}"
    ]
    for name, arm in config["arms"].items():
        kept = (
            "every window kept"
            if arm["keep_ratio"] == 1
            else f"{arm['scorer']} scorer, keep ratio {arm['keep_ratio']:g} (drop ratio {1 - arm['keep_ratio']:g})"
        )
        lines.append(
            f"{name}: {arm['model']}, at most {arm['frames']} frames and {arm['max_fps']:g} a second, {kept}, "
            f"{arm['dtype']} on {config['device']}"
        )
    return lines + ([f"note: {document['remark']}"] if document["remark"] else [])


def _tables(document: Document) -> list[Table]:
    names = list(next(iter(document["arms"].values()))["groups"])
    tables = [_group_table(document, name, some) for some in _in_parts(document["arms"]) for name in names]
    return [*tables, _accuracy_table(document), _cost_table(document)]


def _in_parts(arms: dict[str, Document]) -> list[dict[str, Document]]:
    """Part the arms so that a column each fits a terminal."""
    names = list(arms)
    return [{name: arms[name] for name in names[i : i + COLUMNS]} for i in range(0, len(names), COLUMNS)]


def _group_table(document: Document, name: str, arms: dict[str, Document]) -> Table:
    first = next(iter(document["arms"].values()))
    table = plain_table(name, "questions", "chance", *arms)
    for value, score in first["groups"][name].items():
        shares = [arm["groups"].get(name, {}).get(value, {}).get("accuracy") for arm in arms.values()]
        table.add_row(value, f"{score['n']:,}", _percent(score["chance"]), *map(_percent, shares))
    means = [arm["macro"].get(name) for arm in arms.values()]
    mark = ", headline" if first["headline"] == name else ""
    table.add_row(f"mean of these (macro{mark})", "", "", *map(_percent, means), style="dim")
    table.add_section()
    shares = [arm["micro"] for arm in arms.values()]
    table.add_row("all (micro)", f"{first['n']:,}", _percent(first["chance"]), *map(_percent, shares))
    return table


def _accuracy_table(document: Document) -> Table:
    table = plain_table("all questions (micro)", "right", "95% interval", "points", "paired 95%", "p", "unparsed")
    pairs = {each["arm"]: each for each in document["comparisons"]}
    for name, arm in document["arms"].items():
        own = "{:.1f}-{:.1f}%".format(*(100 * end for end in arm["interval"])) if arm["interval"] else ""
        pair = pairs.get(name)
        shown = ["", "", ""]
        if pair and pair["difference"] is not None:
            ends = pair["interval"]
            between = "{:+.1f} to {:+.1f}".format(*(100 * end for end in ends)) if ends else "unknown"
            shown = [f"{pair['difference'] * 100:+.1f}", between, f"{pair['mcnemar_p']:.2g}"]
        table.add_row(name, _percent(arm["micro"]), own, *shown, _percent(arm["unparsed_rate"]))
    return table


def _cost_table(document: Document) -> Table:
    times = document.get("times", {}).get("arms", {})
    timed = ("time a clip", "ratio") if times else ()
    table = plain_table("cost", "visual tokens", "FLOPs a question", "ratio", *timed)
    pairs = {each["arm"]: each for each in document["comparisons"]}
    for name, arm in document["arms"].items():
        cells = [f"{arm['visual_tokens'] or 0.0:,.0f}", format_si(arm["flops"] or 0.0)]
        cells.append(_ratio(pairs.get(name, {}).get("flops_ratio")))
        if times:
            cells += [format_seconds(times[name]["seconds"]), _ratio(times[name]["ratio"])]
        table.add_row(name, *cells)
    return table


def _footer_lines(document: Document) -> list[str]:
    lines = []
    first_name, first = next(iter(document["arms"].items()))
    if document["comparisons"]:
        lines.append(
            f"points and ratios: against {first_name}, on the same questions; paired 95%: bootstrap over videos; "
            "p: McNemar"
        )
    lines.append("FLOPs: a question asked alone")
    lines += [document["times"]["how"]] if "times" in document else []
    counts = {
        "failed": first["n_errors"],
        "without a public answer": first["n_unscored"],
        "left out by the rule, unread": first["n_left_out"],
        "about missing videos": document["num_missing"],
    }
    told = [f"{number:,} questions {label}" for label, number in counts.items() if number]
    return lines + ([f"not scored: {', '.join(told)}"] if told else [])


def _suite_tables(document: Document) -> list[Table]:
    tables = []
    for some in _in_parts(document["benchmarks"][0]["arms"]):
        table = plain_table(document["suite"], "class", "split", "questions", "mean", *some)
        for each in document["benchmarks"]:
            scores = [each["arms"][name] for name in some]
            shares = (_percent(score["accuracy"]) for score in scores)
            counted = f"{scores[0]['n']:,}"
            table.add_row(each["bench"], each["class"], each["split"], counted, scores[0]["mean"], *shares)
        table.add_section()
        for name, means in document["averages"].items():
            table.add_row(
                f"{name} average", "", "", "", "of these", *(_percent(means[arm]) for arm in some), style="bold"
            )
        if document.get("paper"):
            figures = ("" if arm not in document["paper"] else f"{document['paper'][arm]:.1f}%" for arm in some)
            table.add_row("the paper, all", "", "", "", "", *figures, style="dim")
        tables.append(table)
    first, *others = document["benchmarks"][0]["arms"]
    if others:
        tables.append(_differences_table(document, first))
    return tables


def _differences_table(document: Document, first: str) -> Table:
    classes = document["differences"]
    costs = [key for key in COSTS if key in next(iter(classes["all"].values()))]
    table = plain_table(f"points against {first}", *classes, *(COSTS[key] for key in costs))
    for name in classes["all"]:
        points = []
        for pairs in classes.values():
            difference, ends = pairs[name]["difference"], pairs[name]["interval"]
            between = " ({:+.1f} to {:+.1f})".format(*(100 * end for end in ends)) if ends else ""
            points.append("" if difference is None else f"{100 * difference:+.1f}{between}")
        table.add_row(name, *points, *(_ratio(classes["all"][name][key]) for key in costs))
    return table


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} x"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
