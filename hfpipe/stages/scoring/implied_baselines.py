"""Baselines that follow from how a model was made: the original of an export, teachers of a student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hfpipe.contract import Stage
from hfpipe.references.places import BaselinePlace, Place
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.repeats.group import RepeatedTraining
from hfpipe.stages.repeats.members import get_owner


def find_implied_baselines(model: Place, above: Mapping[str, Stage]) -> Iterator[BaselinePlace]:
    """Yield the original of an export, and the teachers of a student, as far as they are known.

    For teachers trained with the seeds of their students, it is the stage that summarizes them.
    """
    stage = above.get(model.stage or "")
    if isinstance(stage, RepeatedTraining):
        students = [above.get(place.stage or "") for place in stage.members.values()]
    else:
        students = [stage]
    places = [place for each in students if isinstance(each, Finetune) for place in each.teachers]
    original = getattr(stage, "model", None) if stage is not None and stage.kind == "export" else None
    found = dict.fromkeys([original, *(_get_summary_place(place, above) for place in places)])
    for place in found:
        # A missing stage is reported elsewhere.
        if isinstance(place, Place) and (place.stage is None or place.stage in above):
            yield BaselinePlace(place)


def _get_summary_place(place: Place, above: Mapping[str, Stage]) -> Place:
    owner = get_owner(place)
    group = above.get(owner.removeprefix("stage:"))
    return Place(owner) if place.stage and isinstance(group, RepeatedTraining) else place
