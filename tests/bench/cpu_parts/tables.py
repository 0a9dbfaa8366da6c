"""The results as tables in Markdown and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Lines = Sequence[dict[str, Any]]
BEGIN, END = "<!-- cpu.py --write-table: begin -->", "<!-- cpu.py --write-table: end -->"
NAMES = {
    "hfpipe": "**hfpipe**, defaults",
    "trainer": "Trainer, defaults",
    "trainer-fast": "Trainer, every speed flag",
    "trainer-eager": "Trainer, every speed flag but torch_compile",
    "loop": "plain loop, bf16",
    "loop-compiled": "plain loop, bf16, compiled",
    "scripts": "example scripts, defaults",
    "scripts-fast": "example scripts, bf16, dynamic padding",
    "raw": "`encode_batch_fast` alone",
}
TOLERANCE = {"masked-lm": 0.03, "causal-lm": 0.03, "seq2seq": 0.05, "classification": 0.1}
"""Kind of work → largest relative difference of two mean losses; rows differ, and so does dropout."""


def equal_work(lines: Lines) -> Iterator[dict[str, Any]]:
    """Yield for each contender whether its loss is about hfpipe's at the last step that both logged."""
    trained = [line for line in lines if line["part"] == "train"]
    for name in dict.fromkeys(line["work"] for line in trained):
        here = [line for line in trained if line["work"] == name]
        ours = next((line["losses"] for line in here if line["contender"] == "hfpipe"), {})
        tolerance = TOLERANCE[name.rpartition("-")[0]]
        seen = {"hfpipe"}
        for line in here:
            if line["contender"] in seen or not ours:
                continue
            seen.add(line["contender"])
            step = max((int(step) for step in line["losses"] if step in ours), default=None)
            facts = {"work": name, "contender": line["contender"], "step": step}
            if step is None:
                yield facts | {"ok": False}
                continue
            theirs, mine = line["losses"][str(step)], ours[str(step)]
            yield facts | {
                "loss": theirs,
                "hfpipe": mine,
                "tolerance": tolerance,
                "ok": abs(theirs - mine) <= tolerance * theirs,
            }


def markdown(lines: Lines) -> str:
    """Return every table for which there are results."""
    made = [
        _machine(lines),
        _training(lines),
        _equal(lines),
        _checkpoints(lines),
        _preparation(lines),
        _evaluation(lines),
        _start(lines),
    ]
    return "\n\n".join(text for text in made if text)


def _machine(lines: Lines) -> str:
    found = [line for line in lines if line["part"] == "peak"]
    runs = [line for line in lines if line["part"] == "begin"]
    if not found:
        return ""
    bf16, single = (_range(found, f"{dtype}_gflops", "{:,.0f}") for dtype in ("bfloat16", "float32"))
    first = found[0]
    versions = {**first["versions"], **({"hfpipe": runs[0]["commit"]} if runs else {})}
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "hfpipe") if name in versions
    )
    date = f"{runs[0]['date']}, " if runs else ""
    load = f" The load of the machine was {runs[0]['load']:.2f} when the run began." if runs else ""
    return (
        f"{date}{first['processor']} ({', '.join(first['flags']) or 'no flags known'}), "
        f"{first['threads']} of {first['cores']} cores; {shown}. "
        f"Matrix products: {bf16} GFLOP/s in bf16, {single} in float32.{load}"
    )


def peak(lines: Lines) -> float | None:
    """Return the FLOP/s of matrix products in bf16, the median of the rounds."""
    found = [line["bfloat16_gflops"] * 1e9 for line in lines if line["part"] == "peak"]
    return statistics.median(found) if found else None


def _training(lines: Lines) -> str:
    trained = [line for line in lines if line["part"] == "train"]
    if not trained:
        return ""
    rows = []
    for name in dict.fromkeys(line["work"] for line in trained):
        here = [line for line in trained if line["work"] == name]
        ours = [line for line in here if line["contender"] == "hfpipe"]
        for contender in dict.fromkeys(line["contender"] for line in here):
            mine = [line for line in here if line["contender"] == contender]
            rows.append([name, NAMES[contender], *_training_cells(mine, ours, peak(lines))])
            name = ""  # noqa: PLW2901 - once for each work
    head = ["work", "contender", "steady speed", "hfpipe ÷ it", "5 minutes with compilation", "hfpipe ÷ it"]
    return _table([*head, "of GEMM", "waiting for data", "peak RSS", "first step", "since start"], rows)


def _training_cells(mine: Lines, ours: Lines, best: float | None) -> list[str]:
    # Compilation and measuring count as in the first round, when no cache has anything.
    cold, ours_cold = ([line for line in each if line["round"] == 1] or each for each in (mine, ours))
    return [
        f"{_range(mine, 'speed', '{:,.0f}')} {mine[0]['unit']}",
        _times(ours, mine, "speed"),
        f"{_median(cold, 'speed_5min'):,.0f}",
        _times(ours_cold, cold, "speed_5min"),
        f"{_median(mine, 'flops_s') / best:.0%}" if best else "",
        f"{_median(mine, 'waiting'):.1%}" if "waiting" in mine[0] else "",
        f"{_median(mine, 'peak_rss_mb'):,.0f} MB",
        f"{_median(cold, 'first_step_s'):.1f} s",
        f"{_median(cold, 'from_start_s'):.1f} s",
    ]


def short(lines: Lines) -> str:
    """Return what the manual says: the machine, and hfpipe next to the fastest Trainer of each work."""
    rows = []
    trained = [line for line in lines if line["part"] == "train"]
    for name in dict.fromkeys(line["work"] for line in trained):
        here = [line for line in trained if line["work"] == name]
        ours = [line for line in here if line["contender"] == "hfpipe"]
        cells = [name, f"{_range(ours, 'speed', '{:,.0f}')} {ours[0]['unit']}" if ours else ""]
        for contender in ("trainer", "trainer-fast", "trainer-eager"):
            mine = [line for line in here if line["contender"] == contender]
            shown = (
                f"{_range(mine, 'speed', '{:,.0f}')} ({_times(ours, mine, 'speed')})" if ours and mine else ""
            )
            cells.append(shown)
        rows.append(cells)
    head = [
        "training",
        "hfpipe, defaults",
        "Trainer, defaults (hfpipe ÷ it)",
        "every speed flag",
        "without torch_compile",
    ]
    return f"{_machine(lines)}\n\n{_table(head, rows)}" if rows else _machine(lines)


def _equal(lines: Lines) -> str:
    found = [line for line in lines if line["part"] == "equal"]
    if not found:
        return ""
    rows = [
        [
            line["work"],
            NAMES[line["contender"]],
            str(line["step"]),
            str(line.get("loss", "")),
            str(line.get("hfpipe", "")),
            "yes" if line["ok"] else "**no**",
        ]
        for line in found
    ]
    return _table(["equal work", "contender", "step", "its loss", "hfpipe's loss", "within tolerance"], rows)


def _checkpoints(lines: Lines) -> str:
    rows = [
        [
            line["work"],
            f"{line['megabytes']:,.0f} MB",
            _range([{"still": seconds} for seconds in line["still_s"]], "still", "{:.2f}") + " s",
            f"{line['share']:.1%} of {line['seconds_between']:.0f} s",
            f"{line['share_each_minute']:.1%}",
        ]
        for line in lines
        if line["part"] == "checkpoints"
    ]
    head = ["checkpoints", "size", "steps stand still", "of the time between two", "one each minute"]
    return _table(head, rows) if rows else ""


def _preparation(lines: Lines) -> str:
    found = [line for line in lines if line["part"] == "preparation"]
    if not found:
        return ""
    rows = []
    for key in dict.fromkeys((line["what"], line["megabytes"], line["contender"]) for line in found):
        what, size, contender = key
        mine = [line for line in found if (line["what"], line["megabytes"], line["contender"]) == key]
        raw = [line for line in found if line["contender"] == "raw" and line["megabytes"] == size]
        share = f"{_median(mine, 'mb_s') / _median(raw, 'mb_s'):.0%}" if raw and what == "encoding" else ""
        memory = [
            f"{_median(mine, name):,.0f} MB" if name in mine[0] else "" for name in ("rss_mb", "anonymous_mb")
        ]
        rows.append(
            [
                what,
                f"{size:,.0f} MB",
                NAMES[contender],
                f"{_range(mine, 'mb_s', '{:.1f}')} MB/s",
                share,
                *memory,
            ]
        )
    head = [
        "data preparation",
        "text",
        "contender",
        "speed",
        "of the raw tokenizer",
        "peak RSS",
        "without mapped files",
    ]
    return _table(head, rows)


def _evaluation(lines: Lines) -> str:
    found = [line for line in lines if line["part"] == "evaluation"]
    rows = []
    for what in dict.fromkeys(line["what"] for line in found):
        here = [line for line in found if line["what"] == what]
        ours = [line for line in here if line["contender"] == "hfpipe"]
        for contender in dict.fromkeys(line["contender"] for line in here):
            mine = [line for line in here if line["contender"] == contender]
            cells = [f"{_range(mine, 'rows_s', '{:,.0f}')} rows/s", _times(ours, mine, "rows_s")]
            rows.append([what, NAMES[contender], *cells])
    return _table(["reading", "contender", "speed", "hfpipe ÷ it"], rows) if rows else ""


def _start(lines: Lines) -> str:
    found = [line for line in lines if line["part"] == "start"]
    rows = [[f"`{line['command']}`", f"{line['seconds']:.2f} s", str(line["turns"])] for line in found]
    return _table(["start-up", "best", "of turns"], rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _median(lines: Lines, name: str) -> float:
    return statistics.median(line[name] for line in lines)


def _range(lines: Lines, name: str, form: str) -> str:
    """Return the median of the rounds, and the least and the most where they differ."""
    values = [line[name] for line in lines]
    low, middle, high = (form.format(each) for each in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} [{low}, {high}]"


def _times(ours: Lines, mine: Lines, name: str) -> str:
    if not ours or ours == mine or not _median(mine, name):
        return ""
    return f"{_median(ours, name) / _median(mine, name):.2f}×"


def plot(lines: Lines, path: Path) -> bool:
    """Draw the speed of each contender in multiples of Trainer's defaults; False without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("agg")
    from matplotlib import pyplot as plt

    trained = [line for line in lines if line["part"] == "train"]
    works = list(dict.fromkeys(line["work"] for line in trained))
    contenders = [name for name in NAMES if any(line["contender"] == name for line in trained)]
    with mpl.rc_context({"svg.hashsalt": "hfpipe", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(8, 1.2 + 0.9 * len(works)), layout="constrained")
        for number, contender in enumerate(contenders):
            places = [at + number / (len(contenders) + 1) for at in range(len(works))]
            speeds = [_relative(trained, work, contender) for work in works]
            bars = axes.barh(
                places, speeds, 1 / (len(contenders) + 1), label=NAMES[contender].replace("*", "")
            )
            axes.bar_label(bars, [f"{speed:.1f}" if speed else "" for speed in speeds], padding=2)
        middle = (len(contenders) - 1) / (len(contenders) + 1) / 2
        axes.set_yticks([at + middle for at in range(len(works))], works)
        axes.invert_yaxis()
        axes.set_xlabel("training speed, Trainer's defaults = 1")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return True


def _relative(trained: Lines, work: str, contender: str) -> float:
    here = [line for line in trained if line["work"] == work]
    mine, theirs = (
        [line["speed"] for line in here if line["contender"] == who] for who in (contender, "trainer")
    )
    return statistics.median(mine) / statistics.median(theirs) if mine and theirs else 0.0


def write(readme: Path, text: str) -> None:
    """Put text between the two markers of a file. Raises ValueError where they are missing."""
    whole = readme.read_text(encoding="utf-8")
    if BEGIN not in whole or END not in whole:
        raise ValueError(f"{readme}: has no lines {BEGIN} and {END}; add them where the table belongs")
    before, after = whole[: whole.index(BEGIN)], whole[whole.index(END) :]
    readme.write_text(f"{before}{BEGIN}\n{text}\n{after}", encoding="utf-8")
