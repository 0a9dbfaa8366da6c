"""Ensures that AutoTokenizer opens a tokenizer as it was saved, whatever the type of the model next to it.

For some model types (in Transformers 5.23: `qwen2`, `qwen3_5`, `qwen4_exp` and others) AutoTokenizer builds
the tokenizer of the published checkpoints with the saved vocabulary, and ignores the normalizer and the
pre-tokenizer in `tokenizer.json`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hfpipe.errors import StageError, format_one_line
from hfpipe.library_output import silence_libraries

log = logging.getLogger(__name__)

PROBES = (
    "The river Danube, 2,850 km long, flows through 10 countries; don't THEY'LL say so?",
    "In 1969 it cost 19 3 4 and 1234567890 or 3.14e-5 (12:30, 50 %), ½ ² Ⅷ \uff11\uff12\uff13",
    "def f(x: int) -> int:\n\treturn x ** 2  # {'a': [1, 2]}\r\n\n    if a_b != cD: pass",
    "  two  spaces   and a tab\tat the ends \n",
    "Straße, café, cafe\u0301, naïve, ﬁne, İstanbul, Ελλάδα, Привет, мир!",
    "你好\uff0c世界。 日本語のテキスト 한국어 हिन्दी ภาษาไทย العربية עברית 👩\u200d🚀 🇦🇹",
)
"""Test texts with numbers, code, white space, accents and other scripts."""
CODE = "saved_tokenizer.py"
"""File with the class that a repaired folder names; executed only with `trust_remote_code=True`."""
_CLASS = '''"""The tokenizer as tokenizer.json describes it; used only with trust_remote_code=True."""

from transformers import PreTrainedTokenizerFast


class SavedTokenizer(PreTrainedTokenizerFast):
    """Reads normalizer and pre-tokenizer from tokenizer.json for every type of model."""
'''
_SETTINGS = "tokenizer_config.json"


def check_saved(folder: Path, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool = False) -> None:
    """Check that AutoTokenizer opens the tokenizer that was saved in a folder; repair the folder if not.

    Raises StageError if it cannot be repaired.
    """
    wrong = describe_tokenizer_difference(folder, tokenizer, trust_remote_code=trust_remote_code)
    if wrong is None:
        return
    before = (folder / _SETTINGS).read_bytes()
    _set_tokenizer_class(folder)
    if describe_tokenizer_difference(folder, tokenizer, trust_remote_code=trust_remote_code) is None:
        log.info("%s: AutoTokenizer did not open the tokenizer as it was saved (%s); repaired", folder, wrong)
        return
    (folder / _SETTINGS).write_bytes(before)
    (folder / CODE).unlink(missing_ok=True)
    raise StageError(
        f"tokenizer: AutoTokenizer does not open it as it was saved with this type of model: {wrong}; "
        "use another type of model, or the tokenizer of a checkpoint of this type"
    )


def check_reopens(
    config: transformers.PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trust_remote_code: bool = False,
) -> None:
    """Raise the StageError of `check_saved` before a model with this config is trained."""
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        check_saved(Path(folder), tokenizer, trust_remote_code=trust_remote_code)


def describe_tokenizer_difference(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool = False
) -> str | None:
    """Return how the tokenizer opened by AutoTokenizer differs from the saved one; None if it does not."""
    try:
        with silence_libraries():
            opened = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
            return next(_find_differences(opened, tokenizer), None)
    except Exception as error:  # Tokenizers raises bare Exceptions
        return f"it fails with {format_one_line(error)!r:.120}"


def _find_differences(opened: Any, saved: Any) -> Iterator[str]:
    for name in ("src_lang", "tgt_lang"):  # set by the task and not saved
        if hasattr(saved, name):
            setattr(opened, name, getattr(saved, name))
    kind = f"as {type(opened).__name__}"
    if opened.special_tokens_map != saved.special_tokens_map or len(opened) != len(saved):
        yield f"{kind} it has other special tokens"
    if opened.chat_template != saved.chat_template:
        yield f"{kind} it has another chat template"
    for text in (*PROBES, *(f"a {token}b" for token in saved.added_tokens_encoder)):
        theirs, ours = (_encode_and_decode(each, text) for each in (opened, saved))
        if theirs != ours:
            yield f"{kind} it reads {text!r:.40} differently"


def _encode_and_decode(tokenizer: Any, text: str) -> list[Any]:
    """Return the encodings of a text, alone and in a pair, and the decoded texts."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    texts = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (True, False)]
    pair = tokenizer(text, PROBES[0], verbose=False)
    return [ids, tokenizer(text, verbose=False)["input_ids"], dict(pair), *texts]


def _set_tokenizer_class(folder: Path) -> None:
    """Set a tokenizer class in the folder, so that AutoTokenizer does not select one by the model type.

    Without `trust_remote_code`, AutoTokenizer then uses the class in `tokenizer_config.json`. JSON entries
    alone do not have this effect for every tokenizer: `auto_map` without a file fails with
    `trust_remote_code=True`. The custom code of a tokenizer is kept; Transformers 5.23 saves its name in a
    format that it cannot read.
    """
    settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    own = settings.get("auto_map", {}).get("AutoTokenizer")
    if not isinstance(own, str):
        own = f"{Path(CODE).stem}.SavedTokenizer"
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / CODE).write_text(_CLASS, "utf-8")
    settings["auto_map"] = {"AutoTokenizer": [None, own]}
    (folder / _SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
