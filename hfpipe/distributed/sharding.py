"""Splits models over processes: by Accelerate (FSDP2), or by Transformers for tensor parallelism.

Accelerate enables FSDP on accelerators only, and silently trains replicas on a CPU. FSDP2 itself supports
both, and is enabled here, so that a test on a CPU runs the same code as on GPUs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, TorchDynamoPlugin
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from hfpipe.distributed.process_layout import USED, ProcessLayout
from hfpipe.errors import StageError, format_one_line

EMBEDDINGS = ("get_input_embeddings", "get_output_embeddings")
"""Methods with which Accelerate finds the embeddings and the head."""
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"


def uses_fsdp() -> bool:
    """Return whether the launcher uses FSDP."""
    return os.environ.get(FSDP, "").lower() == "true"


def uses_deepspeed() -> bool:
    """Return whether the launcher uses DeepSpeed."""
    return os.environ.get(DEEPSPEED, "").lower() == "true"


def forget_deepspeed() -> None:
    """Let the models that this process loads next be whole: with ZeRO-3, Transformers splits every model."""
    if uses_deepspeed():
        unset_hf_deepspeed_config()


def prepare_state(mixed_precision: str) -> None:
    """Make the Accelerator that is created next behave on a CPU as on a GPU.

    It then uses FSDP if the launcher does, and does not check whether the device supports it.
    """
    from accelerate.parallelism_config import ParallelismConfig  # since Accelerate 1.10

    stated = os.environ.get(USED, "").lower() == "true"
    state = AcceleratorState(
        mixed_precision=mixed_precision,
        cpu=True,
        dynamo_plugin=TorchDynamoPlugin(),
        parallelism_config=ParallelismConfig() if stated else None,
        _from_accelerator=True,
    )
    if not uses_fsdp():
        return
    plugin = FullyShardedDataParallelPlugin()
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    state.fsdp_plugin = plugin
    state.distributed_type = DistributedType.FSDP
    PartialState().distributed_type = DistributedType.FSDP


def group_shared_weights(model: Any, plugin: FullyShardedDataParallelPlugin) -> None:
    """Make FSDP2 put weights that occur in several modules into one group, that of the whole model.

    Accelerate wraps embeddings and head separately, and layers by class name; some of these classes contain
    embeddings (as in BERT), and weights may be tied. PyTorch rejects a weight that is in two groups.
    `show_embeddings` restores the methods that are hidden here.
    """
    held = (parameter for module in model.modules() for parameter in module._parameters.values())
    tied = {each for each, count in Counter(map(id, held)).items() if count > 1} - {id(None)}
    tables = (getattr(model, name)() for name in EMBEDDINGS)
    shared = tied | {id(weight) for table in tables if table is not None for weight in table.parameters()}
    holding = {
        type(module).__name__
        for module in model.modules()
        if any(id(parameter) in shared for parameter in module.parameters())
    }
    layers = set(model._no_split_modules or ())
    if not tied and not layers & holding:
        return
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = sorted(layers - holding)
    for name in EMBEDDINGS:
        vars(model)[name] = lambda: None


def show_embeddings(model: Any) -> None:
    """Restore the methods that return the embeddings and the head of a model."""
    for name in EMBEDDINGS:
        vars(model).pop(name, None)


def split_model(model: PreTrainedModel, layout: ProcessLayout) -> PreTrainedModel:
    """Return the model with each matrix product split over the processes of a group.

    Starts the process group, if there is none. Raises StageError when the model has no plan for splitting it.
    """
    if not isinstance(model, PreTrainedModel):
        raise StageError(
            "parallelism_config_tp_size: an adapter cannot be trained tensor parallel; use fsdp.yaml"
        )
    from transformers.distributed.configuration_utils import DistributedConfig

    config = model.config
    wanted = DistributedConfig(
        tp_size=layout.tensor, fsdp_size=layout.shards, dp_replicate_size=layout.replicas
    )
    try:
        split = type(model).from_pretrained(
            None, config=config, state_dict=model.state_dict(), dtype=model.dtype, distributed_config=wanted
        )
    except (ValueError, RuntimeError) as error:
        raise StageError(
            f"parallelism_config_tp_size: {config.model_type} cannot be split: {format_one_line(error)}; "
            "use a model with a tp_plan, such as llama or qwen2, or fsdp.yaml"
        ) from error
    split.train(model.training)
    if model.can_generate():
        split.generation_config = model.generation_config
    return split


@contextmanager
def keep_models_whole() -> Iterator[None]:
    """Create an Accelerator for models that are not split, even if the training is."""
    kept = {name: os.environ.pop(name) for name in (FSDP, DEEPSPEED, USED) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
