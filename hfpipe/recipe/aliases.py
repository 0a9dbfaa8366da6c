"""Names of settings in other tools and older versions of Transformers, and their equivalents in hfpipe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hfpipe.recipe.messages import Keys, suggest


@dataclass(frozen=True)
class Name:
    """The equivalent of a foreign name in a recipe."""

    target: str = ""
    """The key to use, relative to the stage, such as `training.learning_rate`; empty if there is none."""
    note: str = ""
    """Additional information: a different meaning, or why there is no such key."""


_BATCH = Name("training.per_device_train_batch_size")
_EVAL_BATCH = Name("training.per_device_eval_batch_size")
_LENGTH = Name("task.length")
_EPOCHS = Name("training.num_train_epochs")
_RATE = Name("training.learning_rate")
_MODEL = Name("model")
_HUB_DATA = Name("source.hub", "in a stage of kind dataset")
_FILES = Name("source.files", "in a stage of kind dataset")
_ADAPTER = Name("adapter", "as {type: lora, r: 16}")
_RANK = Name("adapter.r")
_ALPHA = Name("adapter.lora_alpha")
_DROPOUT = Name("adapter.lora_dropout")
_TARGETS = Name("adapter.target_modules")
_QUANTIZED = Name("", "hfpipe does not train quantized models; delete it")
_BY_LENGTH = Name("", "hfpipe groups by length automatically; delete it")
_FOLDER = Name("", "each stage has its own folder under --runs; delete it")
_UPLOAD = Name("", "a finished stage is a plain folder: hf upload NAME FOLDER sends it; delete it")
_ANSWERS = Name("", "text-generation computes the loss on answers only; delete it")
_WRITTEN = Name("task.target_length")
_MOST = Name("task.generation.max_new_tokens")
_BEAMS = Name("task.generation.num_beams")
_HARDWARE = Name("", "hardware belongs to an Accelerate config file: hfpipe run --accelerate FILE")

NAMES: dict[str, Name] = {
    "micro_batch_size": _BATCH,
    "batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "per_device_batch_size": _BATCH,
    "device_batch_size": _BATCH,
    "per_gpu_train_batch_size": _BATCH,
    "per_gpu_eval_batch_size": _EVAL_BATCH,
    "eval_batch_size": _EVAL_BATCH,
    "sequence_len": _LENGTH,
    "sequence_length": _LENGTH,
    "seq_length": _LENGTH,
    "seq_len": _LENGTH,
    "cutoff_len": _LENGTH,
    "max_seq_length": _LENGTH,
    "max_seq_len": _LENGTH,
    "max_length": _LENGTH,
    "max_source_length": _LENGTH,
    "block_size": _LENGTH,
    "num_epochs": _EPOCHS,
    "epochs": _EPOCHS,
    "num_steps": Name("training.max_steps"),
    "max_steps_per_epoch": Name("training.max_steps"),
    "lr": _RATE,
    "lr_scheduler": Name("training.lr_scheduler_type"),
    "scheduler": Name("training.lr_scheduler_type"),
    "warmup_ratio": Name(
        "training.warmup_steps", "a number below 1 is a fraction of all steps, as warmup_steps: 0.06"
    ),
    "num_warmup_steps": Name("training.warmup_steps"),
    "optimizer": Name("training.optim"),
    "gradient_accumulation": Name("training.gradient_accumulation_steps"),
    "grad_accum": Name("training.gradient_accumulation_steps"),
    "accumulate_grad_batches": Name("training.gradient_accumulation_steps"),
    "clip_grad_norm": Name("training.max_grad_norm"),
    "gradient_clipping": Name("training.max_grad_norm"),
    "evaluation_strategy": Name("training.eval_strategy"),
    "evals_per_epoch": Name("training.eval_steps"),
    "saves_per_epoch": Name("training.save_steps"),
    "val_set_size": Name("split.validation", "in a stage of kind dataset"),
    "val_size": Name("split.validation", "in a stage of kind dataset"),
    "validation_split_percentage": Name("split.validation", "in a stage of kind dataset, as 0.05"),
    "early_stopping_patience": Name("early_stopping.patience"),
    "early_stopping_threshold": Name("early_stopping.threshold"),
    "base_model": _MODEL,
    "model_name": _MODEL,
    "model_name_or_path": _MODEL,
    "pretrained_model_name_or_path": _MODEL,
    "config_name": Name("model.type"),
    "model_type": Name("model.type"),
    "config_overrides": Name("model", "write the entries of the config there as a mapping"),
    "tokenizer_name": Name("tokenizer"),
    "tokenizer_config": Name("tokenizer"),
    "tokenizer_type": Name("tokenizer"),
    "dataset": Name("data"),
    "dataset_name": _HUB_DATA,
    "datasets": _HUB_DATA,
    "dataset_config_name": Name("source.config", "in a stage of kind dataset"),
    "task_name": _HUB_DATA,
    "train_file": _FILES,
    "validation_file": _FILES,
    "test_file": _FILES,
    "data_files": _FILES,
    "text_column_name": Name("columns.text", "in a stage of kind dataset"),
    "text_column_names": Name("columns.text", "in a stage of kind dataset"),
    "label_column_name": Name("columns.label", "in a stage of kind dataset"),
    "max_train_samples": Name("limit", "in a stage of kind dataset"),
    "max_samples": Name("limit", "in a stage of kind dataset"),
    "mlm_probability": Name("task.mask"),
    "whole_word_mask": Name("task.whole_words"),
    "noise_density": Name("task.mask"),
    "mean_noise_span_length": Name("task.span"),
    "doc_stride": Name("task.stride"),
    "version_2_with_negative": Name("task.version_2"),
    "max_target_length": _WRITTEN,
    "val_max_target_length": _WRITTEN,
    "max_completion_length": _WRITTEN,
    "max_prompt_length": _LENGTH,
    "source_prefix": Name("task.prefix"),
    "text_column": Name("task.source"),
    "summary_column": Name("task.target"),
    "dataset_text_field": Name("task.text"),
    "completion_only_loss": _ANSWERS,
    "assistant_only_loss": _ANSWERS,
    "predict_with_generate": Name("task.predict_with_generate"),
    "generation_max_length": _MOST,
    "generation_num_beams": _BEAMS,
    "generation.max_length": _MOST,
    "max_new_tokens": _MOST,
    "num_beams": _BEAMS,
    "do_sample": Name("task.generation.do_sample", "of text-generation"),
    "temperature": Name("task.generation.temperature", "of text-generation"),
    "top_p": Name("task.generation.top_p", "of text-generation"),
    "mlm": Name("task.kind", "as masked-lm"),
    "objective": Name("task.kind"),
    "stage": Name("task.kind"),
    "line_by_line": Name("", "pretraining packs whole documents; delete it"),
    "pad_to_max_length": Name("", "hfpipe pads each batch to its longest example; delete it"),
    "sample_packing": Name("", "pretraining packs without padding by default; delete it"),
    "packing": Name("task.packing", "of a pretraining task, as wrapped or bfd"),
    "packing_strategy": Name("task.packing", "of a pretraining task, as wrapped or bfd"),
    "group_by_length": _BY_LENGTH,
    "output_dir": _FOLDER,
    "overwrite_output_dir": _FOLDER,
    "overwrite_cache": Name("", "changed data are encoded again automatically; delete it"),
    "logging_dir": Name("", "Transformers 5 has no such argument; set TENSORBOARD_LOGGING_DIR or delete it"),
    "save_safetensors": Name("", "weights are always safetensors; delete it"),
    "save_strategy_steps": Name("training.save_steps"),
    "no_cuda": _HARDWARE,
    "num_gpus": _HARDWARE,
    "num_processes": _HARDWARE,
    "device": _HARDWARE,
    "deepspeed_config": _HARDWARE,
    "sharded_ddp": _HARDWARE,
    "fp16_opt_level": Name("training.fp16"),
    "fp16_backend": Name("training.fp16"),
    "half_precision_backend": Name("training.bf16"),
    "mixed_precision": Name("training.bf16"),
    "use_mps_device": Name("", "the device is detected automatically; delete it"),
    "jit_mode_eval": Name("training.compile"),
    "torchdynamo": Name("training.compile"),
    "flash_attention": Name("model.attn_implementation", "with model a mapping"),
    "flash_attn": Name("model.attn_implementation", "with model a mapping"),
    "wandb_project": Name("training.report_to", "wandb; the project is WANDB_PROJECT in the environment"),
    "use_wandb": Name("training.report_to", "as wandb"),
    "use_auth_token": _UPLOAD,
    "push_to_hub_model_id": _UPLOAD,
    "push_to_hub_token": _UPLOAD,
    "finetuning_type": _ADAPTER,
    "peft": _ADAPTER,
    "lora": _ADAPTER,
    "lora_r": _RANK,
    "lora_rank": _RANK,
    "rank": _RANK,
    "alpha": _ALPHA,
    "lora_alpha": _ALPHA,
    "lora_dropout": _DROPOUT,
    "lora_target": _TARGETS,
    "lora_target_modules": _TARGETS,
    "lora_target_linear": Name("adapter.target_modules", "all-linear is the default"),
    "lora_modules_to_save": Name("adapter.modules_to_save"),
    "merge_and_unload": Name("adapter.merge"),
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "quantization_bit": _QUANTIZED,
}

KINDS = {
    "mlm": "masked-lm",
    "nsp": "masked-lm",
    "clm": "causal-lm",
    "lm": "causal-lm",
    "language-modeling": "causal-lm",
    "span-corruption": "denoising",
    "seq2seq": "translation",
    "text2text-generation": "translation",
    "sequence-classification": "text-classification",
    "sentiment-analysis": "text-classification",
    "regression": "text-classification",
    "nli": "text-classification",
    "ner": "token-classification",
    "pos": "token-classification",
    "tagging": "token-classification",
    "qa": "question-answering",
    "sft": "text-generation",
    "instruction-tuning": "text-generation",
    "chat": "text-generation",
    "train": "finetune",
}
"""Names of tasks and kinds of stage in other tools → their names here."""


def find_hint(name: str, above: Keys) -> str | None:
    """Return the equivalent of a foreign name, relative to the mapping that contains it; None if unknown."""
    last = str(above[-1:][0] if above else "")
    known = NAMES.get(f"{last}.{name.lower()}") or NAMES.get(name.lower())
    if known is None:
        return None
    if not known.target:
        return known.note
    *sections, key = known.target.split(".")
    within = sections.index(last) + 1 if last in sections else 0
    target = ".".join([*sections[within:], key])
    if target == name:
        return None
    return f"write {target!r}" + (f" ({known.note})" if known.note else "")


def suggest_kind(kind: str, known: Iterable[str]) -> str:
    """Return `; write 'x'` with the equivalent of a kind, or else the suggestion for any unknown name."""
    names = list(known)
    other = KINDS.get(kind.lower().replace("_", "-"))
    return f"; write {other!r}" if other in names else suggest(kind, names)
