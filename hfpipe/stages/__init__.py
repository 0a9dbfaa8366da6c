"""The kinds of stage a recipe can name."""

from __future__ import annotations

from hfpipe.contract import Stage
from hfpipe.stages.dataset import Dataset
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.tokenizer import Tokenizer
from hfpipe.stages.train import Finetune, Pretrain

KINDS: dict[str, type[Stage]] = {
    "dataset": Dataset,
    "tokenizer": Tokenizer,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "evaluate": Evaluate,
}
