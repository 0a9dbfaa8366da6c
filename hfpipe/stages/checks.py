"""Checks between stages, made before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.advice import advise
from hfpipe.contract import Stage
from hfpipe.errors import Problem
from hfpipe.evaluation.class_alignment import AlignedSystem, align, find_alignment_problems
from hfpipe.recipe.document import KeyProblem
from hfpipe.recipe.installed import list_auto_classes
from hfpipe.recipe.messages import Keys, find_similar_name, join_names, suggest
from hfpipe.recipe.training.defaults import find_schedule_fault
from hfpipe.references.places import Place
from hfpipe.report import DataFacts
from hfpipe.stages import artifacts, embedding_rows
from hfpipe.stages.repeats.members import get_data_split
from hfpipe.stages.scoring.bounds import check_bounds
from hfpipe.stages.scoring.clusters import check_cluster
from hfpipe.stages.scoring.row_weights import check_row_weights
from hfpipe.task import TaskConfig
from hfpipe.tasks import TASKS

if TYPE_CHECKING:
    from hfpipe.stages.dataset import Dataset
    from hfpipe.stages.evaluate import Evaluate
    from hfpipe.stages.tokenizer import Tokenizer
    from hfpipe.stages.train import TrainStage

Above = Mapping[str, Stage]
Facts = Mapping[str, DataFacts]


def check_training(stage: TrainStage, above: Above, facts: Facts, base: Path) -> Iterator[Problem]:
    """Yield problems that would stop a training stage at its start or later."""
    if stage.kind not in stage.task.stages:
        fit = join_names([name for name, task in TASKS.items() if stage.kind in task.stages], "or")
        yield Problem(f"task {stage.task.kind!r} does not fit {stage.kind}, which takes {fit}", ("task",))
    if stage.tokenizer is None and not isinstance(stage.model, Place):
        yield Problem("missing key 'tokenizer'; a model trained from scratch has none", ("model",))
    yield from (replace(p, path=("task", *p.path)) for p in stage.task.check_settings())
    misfits = list(_check_columns(stage.task, stage.data, above, facts))
    yield from misfits or _check_smoothing(stage, facts)
    yield from _check_model(stage, above, base)
    yield from _check_adapter(stage, above, base)
    yield from _check_validation(stage, above, facts)
    yield from _check_best_metric(stage, facts)


def _check_model(stage: TrainStage, above: Above, base: Path) -> Iterator[Problem]:
    task, model = stage.task, artifacts.find_model(stage.model, above, base)
    vocabulary = artifacts.find_tokenizer_facts(stage.tokenizer or stage.model, above, base)
    where = ("tokenizer",) if stage.tokenizer is not None else ("model",)
    made = above.get(getattr(stage.tokenizer, "stage", None) or "")
    trained = getattr(made, "algorithm", None) is not None
    yield from (Problem(message, where) for message in _check_tokens(task, vocabulary, trained=trained))
    if model is None:
        return
    yield from _check_architecture(task, model)
    yield from _check_length(task, model)
    asking = task.requires.token_types
    if asking is not None and model.token_types < 2:
        message = f"{asking} needs a model that distinguishes two sentences; {model.kind} has no token types"
        yield Problem(f"{message}, bert has", ("task", asking))
    yield from embedding_rows.check_trained_rows(
        stage, model.given.get("vocab_size"), vocabulary.size, above, base
    )


def _check_length(task: TaskConfig, model: artifacts.Model) -> Iterator[Problem]:
    if model.positions is not None and task.length > model.positions:
        most = f"the {model.positions} positions of the model ({model.kind})"
        message = f"length {task.length} exceeds {most}"
        yield Problem(f"{message}; lower it", ("task", "length"))


def _check_tokens(task: TaskConfig, vocabulary: artifacts.TokenizerFacts, *, trained: bool) -> Iterator[str]:
    """Yield special tokens or chat templates that a task needs and its tokenizer lacks.

    `trained` is whether a stage of this recipe trains the tokenizer, so that its style can be chosen.
    """
    needs = task.requires
    fix = f"add {advise(style=needs.style)} to its stage" if trained else "use another tokenizer"
    if needs.mask_token and vocabulary.mask is False:
        yield f"{task.kind} needs a mask token, and this tokenizer has none; {fix}"
    if needs.sentinels and vocabulary.blanks is False:
        yield f"{task.kind} needs <extra_id_0> … for hidden spans, and this tokenizer has none; {fix}"
    if needs.chat_template and vocabulary.chat is False:
        yield (
            f"{task.kind} formats conversations with a chat template, and this tokenizer has none; "
            "use one that has, or use `template` and `completion` instead"
        )


def _check_architecture(task: TaskConfig, model: artifacts.Model) -> Iterator[Problem]:
    """Check what Transformers rejects late or misinterprets, such as the decoder of an encoder-decoder."""
    both = bool(model.config.get_value(model.given, "is_encoder_decoder"))
    prompted = task.requires.prompt
    path = ("task",) if prompted else ("model",)
    if task.auto_class == "AutoModelForSeq2SeqLM" and not both:
        message = f"{task.kind} needs an encoder-decoder such as t5, and {model.kind} is not one"
        decoder = prompted and model.has("AutoModelForCausalLM") and not model.reads_ahead
        fix = 'add a prompt to the task, as "{source} =>"' if decoder else "use another model"
        yield Problem(f"{message}; {fix}", path)
    elif task.auto_class == "AutoModelForCausalLM" and both:
        message = f"{task.kind} needs a decoder here, and {model.kind} also has an encoder"
        yield Problem(f"{message}; {'delete prompt' if prompted else 'use another model'}", path)
    elif task.auto_class not in list_auto_classes():
        message = f"{task.kind}: Transformers has no auto class {task.auto_class!r}"
        yield Problem(f"{message}{suggest(task.auto_class, list_auto_classes())}", ("task",))
    elif not model.has(task.auto_class):
        yield Problem(f"Transformers has no {model.kind} for {task.kind}; use another model", ("model",))
    elif task.auto_class == "AutoModelForCausalLM" and model.reads_ahead:
        message = f"{task.kind} needs a decoder, and {model.kind} also attends to later tokens"
        yield Problem(f"{message}; use another model, such as gpt2", ("model",))


def _check_adapter(stage: TrainStage, above: Above, base: Path) -> Iterator[Problem]:
    if stage.adapter is None:
        return
    if find_spec("peft") is None:
        yield Problem("adapter needs peft, which is not installed; pip install 'hfpipe[lora]'", ("adapter",))
    if not isinstance(stage.model, Place):
        message = "an adapter needs trained weights, which a model from scratch does not have"
        yield Problem(f"{message}; name a model, or delete adapter", ("adapter",))
    elif artifacts.is_adapter(stage.model, above, base):
        merged = advise(adapter={"type": "lora", "merge": True})
        fix = f"add {merged} to its stage" if stage.model.stage else "merge it first"
        yield Problem(f"{stage.model} is an adapter, to which no other can be added; {fix}", ("model",))


def _check_smoothing(stage: TrainStage, facts: Facts) -> Iterator[Problem]:
    data = facts.get(stage.data.stage or "")
    if data is None or not stage.training.get("label_smoothing_factor"):
        return
    problem = stage.task.head(data).get("problem_type")
    if problem in ("multi_label_classification", "regression"):
        what = problem.replace("_", " ")
        message = f"label_smoothing_factor is not supported for {what}; delete it"
        yield Problem(message, ("training", "label_smoothing_factor"))


def _check_validation(stage: TrainStage, above: Above, facts: Facts) -> Iterator[Problem]:
    strategy = stage.training.get("eval_strategy")
    fault = find_schedule_fault(stage.training, early=True) if stage.early_stopping is not None else None
    if fault is not None:
        key, message = fault
        yield Problem(message, (key,) if key == "early_stopping" else ("training", key))
    found = artifacts.get_splits(stage.data, above, facts)
    if found is None or "validation" in found:
        return
    asking: list[Keys] = [("early_stopping",)] if stage.early_stopping is not None else []
    asking += [(name,) for name in ("calibrate", "samples") if getattr(stage, name, None)]
    asking += [("training", "eval_strategy")] if strategy not in (None, "no") else []
    asking += [("training", "load_best_model_at_end")] if stage.training.get("load_best_model_at_end") else []
    for path in asking:
        message = (
            f"{path[-1]} needs a validation split, and {stage.data} has only {join_names(sorted(found))}"
        )
        message += _describe_dropped(stage.data, facts)
        yield Problem(f"{message}; add {advise(split={'validation': 0.05})} to that stage", path)


def _check_best_metric(stage: TrainStage, facts: Facts) -> Iterator[Problem]:
    given = stage.training.get("metric_for_best_model")
    if not isinstance(given, str):
        return
    yield from check_validation_score(
        stage, given.removeprefix("eval_"), ("training", "metric_for_best_model"), facts
    )


def check_validation_score(stage: TrainStage, name: str, path: Keys, facts: Facts) -> Iterator[Problem]:
    """Yield a problem if a stage's task has no score of this name on the validation split."""
    names = _list_validation_metrics(stage.task, facts.get(stage.data.stage or ""))
    of_class = {each.partition("[")[0] for each in names if "[" in each}
    certain = stage.data.stage in facts
    if not names or name in names or (not certain and name.partition("[")[0] in of_class and "[" in name):
        return
    there = [each for each in names if certain or "[" not in each]
    close = find_similar_name(name, there)
    tail = f"did you mean {close!r}?" if close else f"there are {', '.join(there)}"
    message = f"{stage.task.kind} has no score {name!r} on a validation split; {tail}"
    yield Problem(message, path)


def _list_validation_metrics(task: TaskConfig, facts: DataFacts | None) -> list[str]:
    """Return the names of a task's scores; if the data do not exist yet, those for any type of column.

    One class represents all classes then. The list is empty if user code gives no names yet.
    """
    columns, names = task.columns, ["A", "B"]
    guessed = [
        DataFacts(columns=dict.fromkeys(columns, kind), splits={}, labels=dict.fromkeys(columns, names))
        for kind in ("label", "labels", "float", "string", "nested")
    ]
    found: dict[str, None] = {}
    for each in guessed if facts is None else [facts]:
        try:
            found |= dict.fromkeys(
                metric.name for metric in task.runtime().evaluator.validation_metrics(each)
            )
        except Exception:  # user code that expects its own columns may raise any exception
            return []
    return list(found)


def _check_columns(
    task: TaskConfig, data: Place, above: Above, facts: Facts, at: tuple[str, ...] = ("task",)
) -> Iterator[Problem]:
    """Check the columns that a task reads, against the facts or else the settings of the data set."""
    name = data.stage or ""
    if name in facts:
        yield from (replace(p, path=(*at, *p.path)) for p in task.check(facts[name]))
        return
    there = artifacts.get_columns(data, above, facts)
    for column in task.columns:
        if there is not None and column not in there:
            message = _describe_missing("column", column, data, there)
            keys = [key for key, value in task if value == column][:1]
            if not keys or keys[0] in task.model_fields_set:
                yield Problem(message, (*at, *keys))
            else:
                yield Problem(f"{message} (the task's {keys[0]!r} names another)", at)


def _describe_missing(what: str, name: str, data: Place, there: set[str]) -> str:
    close = find_similar_name(name, there)
    tail = f"; did you mean {close!r}?" if close else f"; it has {join_names(sorted(there))}"
    return f"{data} has no {what} {name!r}{tail}"


def _describe_dropped(data: Place, facts: Facts) -> str:
    """Return which rows a data set has dropped, as a possible reason for missing values."""
    known_facts = facts.get(data.stage or "")
    if known_facts is None or not known_facts.dropped:
        return ""
    came = sum(known_facts.splits.values()) + sum(known_facts.dropped.values())
    reasons = ", ".join(f"{why} took {count:,}" for why, count in known_facts.dropped.items())
    return f" ({sum(known_facts.dropped.values()):,} of {came:,} rows were dropped: {reasons})"


def check_dataset(stage: Dataset, above: Above, facts: Facts) -> Iterator[Problem]:
    """Yield columns in the settings that neither the source nor the data set will have."""
    source = stage.source.stage
    given = artifacts.get_columns(source, above, facts) if source is not None else None
    if source is not None and given is not None:
        for ours, theirs in stage.columns.items():
            if theirs.partition(".")[0] not in given:
                yield Problem(_describe_missing("column", theirs, source, given), ("columns", ours))
    there = set(stage.columns) or given
    if there is None:
        return  # all columns of the source are kept, and known only after reading it
    for path, column in _list_named_columns(stage):
        if column not in there:
            yield KeyProblem(f"there is no column {column!r}{suggest(column, sorted(there))}", path)


def _list_named_columns(stage: Dataset) -> Iterator[tuple[Keys, str]]:
    """Yield the columns named in `text`, `labels` and `clean`, with their paths."""
    yield from ((("text", number), column) for number, column in enumerate(stage.text))
    yield from ((("labels", column), column) for column in stage.labels)
    for number, step in enumerate(stage.clean):
        dropped = step.drop.root if step.drop is not None else {}
        yield from ((("clean", number, "drop", column), column) for column in dropped)


def check_tokenizer(stage: Tokenizer, above: Above, facts: Facts) -> Iterator[Problem]:
    """Yield columns to read that the data set lacks."""
    there = artifacts.get_columns(stage.data, above, facts)
    for number, column in enumerate(stage.text):
        if there is not None and column not in there:
            path = ("text", number) if "text" in stage.model_fields_set else ("data",)
            yield Problem(_describe_missing("column", column, stage.data, there), path)


def check_evaluation(stage: Evaluate, above: Above, facts: Facts, base: Path) -> Iterator[Problem]:
    """Yield problems that would prevent an evaluation."""
    found = artifacts.get_splits(stage.data, above, facts)
    from hfpipe.stages.repeats.folds import check_out_of_fold  # which reads the stages' classes

    yield from check_out_of_fold(stage, above)
    if found is not None and get_data_split(stage.split) not in found:
        path = ("split",) if "split" in stage.model_fields_set else ("data",)
        yield Problem(
            _describe_missing("split", stage.split, stage.data, found) + _describe_dropped(stage.data, facts),
            path,
        )
    trained = above.get(stage.model.stage or "")
    task = stage.get_task(above)
    facts, misfits = add_classes(stage, task, above, facts)
    if misfits:
        yield from misfits
        return
    if stage.task is not None:
        yield from (replace(p, path=("task", *p.path)) for p in stage.task.check_settings())
        yield from _check_columns(stage.task, stage.data, above, facts)
        model = artifacts.find_model(stage.model, above, base)
        if model is not None:
            yield from _check_architecture(stage.task, model)
            yield from _check_length(stage.task, model)
    elif task is not None:
        # Problems of the model with the same data are reported at its training.
        again = getattr(trained, "data", None) == stage.data
        yield from () if again else _check_columns(task, stage.data, above, facts, ("data",))
    elif stage.model.hub is not None:
        yield Problem("missing key 'task'; the task of a model from the Hub is not known", ("model",))
    yield from check_cluster(stage.cluster, artifacts.get_columns(stage.data, above, facts))
    yield from check_row_weights(stage.row_weights, facts.get(stage.data.stage or ""))
    yield from embedding_rows.check_evaluated_rows(stage.model, ("model",), above, base)
    for number, baseline in enumerate(stage.baselines):
        yield from embedding_rows.check_evaluated_rows(baseline, ("baselines", number), above, base)
    yield from _check_baselines(stage, task)
    yield from check_bounds(stage.require, stage.baselines)


def add_classes(
    stage: Evaluate, task: TaskConfig | None, above: Above, facts: Facts
) -> tuple[Facts, list[Problem]]:
    """Return the facts with the classes of the model, and problems with them, as far as both are known."""
    name = stage.data.stage or ""
    learned = artifacts.get_trained_classes(stage.model, task, above, facts) if task is not None else None
    if name not in facts or learned is None:
        return facts, []
    systems = [AlignedSystem(stage.model, learned)]
    for place in stage.baselines:
        other = getattr(above.get(place.stage or ""), "task", None)
        if task is not None and isinstance(other, TaskConfig) and other.kind == task.kind:
            theirs = artifacts.get_trained_classes(place, other, above, facts)
            systems += [AlignedSystem(place, theirs)] if theirs is not None else []
    if misfits := list(find_alignment_problems(facts[name], stage.data, systems, stage.labels)):
        return facts, misfits
    return {**facts, name: align(facts[name], systems, stage.labels).facts}, []


def _check_baselines(stage: Evaluate, task: TaskConfig | None) -> Iterator[Problem]:
    own = task.baselines if task is not None else ()
    for number, baseline in enumerate(stage.baselines):
        path = ("baselines", number)
        close = find_similar_name(baseline, [*own, *baseline.trivial]) if baseline.hub is not None else None
        if close is not None:
            yield Problem(f"there is no baseline {str(baseline)!r}{suggest(baseline, [close])}", path)
        if task is not None and baseline.is_trivial and baseline not in own:
            has = ", ".join(own) or "no trivial baseline, only other models"
            yield Problem(f"{str(baseline)!r} is not a baseline of {task.kind}, which has {has}", path)
