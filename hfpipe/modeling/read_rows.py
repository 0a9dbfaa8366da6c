"""Trains only the rows of the word embeddings that a training reads; AdamW would not change the others.

A row without a gradient keeps moments of 0, and an update of exactly 0. Clearing, clipping and updating such
rows takes time, and their gradient and moments take three times their memory. Weights differ from those of a
training of all rows by the rounding of the gradient norm, and only where it clips the gradient.

The rows that are read become the first ones of the table. The trained parameter is this part of the table and
shares its memory, so that evaluation reads the whole table. Checkpoints contain all rows in their usual
order, in the weights and in the state of the optimizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hfpipe.modeling.read_positions import run_probe

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SortedTable:
    """The table of an embedding, its rows in another order."""

    rows: Tensor
    order: Tensor
    """Token id of each row, int64."""
    places: Tensor
    """Row of each token id, int64."""

    @classmethod
    def sort(cls, table: Tensor, first: Tensor) -> SortedTable:
        """Move the rows for which `first`, bool (rows,), is true to the beginning of a table, in place."""
        order = torch.cat([first.nonzero().squeeze(-1), (~first).nonzero().squeeze(-1)])
        table.copy_(table.index_select(0, order))
        return cls(table, order, order.argsort())

    def restore(self) -> Tensor:
        """Return a copy of the table in the order of the token ids."""
        return self.rows.index_select(0, self.places)


class RowsEmbedding(nn.Embedding):
    """`torch.nn.Embedding` whose `weight` is the beginning of a sorted table, which has all of its rows."""

    table: SortedTable

    def forward(self, ids: Tensor) -> Tensor:
        """Select rows; in training they must be rows of `weight`."""
        weight = self.weight if self.training else self.join().rows
        padding = None if self.padding_idx is None else int(self.table.places[self.padding_idx])
        return F.embedding(self.table.places[ids], weight, padding)

    def join(self) -> SortedTable:
        """Return the table with the current weight as its beginning, in the same memory.

        `Module.to` copies a parameter where the device of a process is `cpu:0`.
        """
        beginning = self.table.rows[: len(self.weight)]
        if self.weight.data_ptr() != beginning.data_ptr():
            beginning.copy_(self.weight.detach())
            self.weight.data = beginning
        return self.table

    def expand(self, rows: Tensor) -> Tensor:
        """Return values of the rows of `weight` for all token ids, 0 for those that are not read."""
        whole = rows.new_zeros(self.table.rows.shape)
        whole[self.table.order[: len(rows)]] = rows
        return whole

    def shorten(self, whole: Tensor) -> Tensor:
        """Return values of all token ids for the rows of `weight`."""
        return whole.index_select(0, self.table.order[: len(self.weight)])

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.join().restore()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        name, table = f"{prefix}weight", self.table
        whole, given = state_dict.get(name), dict(state_dict)
        if whole is not None and whole.shape == table.rows.shape:
            given[name] = self.shorten(whole)
            table.rows[len(self.weight) :] = whole[table.order[len(self.weight) :]]
        super()._load_from_state_dict(given, prefix, *arguments)


def find_word_embedding(model: PreTrainedModel) -> nn.Embedding | None:
    """Return the trained embedding of token ids; None if it is special, or shares its weight."""
    found: Any = model.get_input_embeddings()
    holders = Counter(id(each) for module in model.modules() for each in module.parameters(recurse=False))
    if type(found) is not nn.Embedding or holders[id(found.weight)] != 1 or not found.weight.requires_grad:
        return None
    return None if found.max_norm is not None or found.scale_grad_by_freq or found.sparse else found


@contextmanager
def skip_unread_rows(model: PreTrainedModel, embedding: nn.Embedding, read: Tensor) -> Iterator[bool]:
    """Train only the rows `read`, bool (rows,), of an embedding, which must contain all ids of the training.

    Yields whether that is so: not for a model that cannot be tested, or that reads the weight of the
    embedding elsewhere, which the outputs of a small batch show.
    """
    usual = _compute_outputs(model, embedding, read)
    with ExitStack() as stack:
        if usual is not None:
            stack.enter_context(_train_rows(embedding, read))
            found = _compute_outputs(model, embedding, read)
            if found is None or not all(map(torch.equal, found, usual)):
                stack.close()
                usual = None
        yield usual is not None


def _compute_outputs(model: PreTrainedModel, embedding: nn.Embedding, read: Tensor) -> list[Tensor] | None:
    """Return the outputs of a model for a few ids that are read, the last ones; None if it cannot be run."""
    training = model.training
    model.eval()
    embedding.train()
    try:
        with torch.no_grad():
            return run_probe(model, read.nonzero().squeeze(-1).flip(0))[1]
    except Exception:  # a model may raise any exception for the batch of the test
        return None
    finally:
        model.train(training)


@contextmanager
def _train_rows(embedding: nn.Embedding, read: Tensor) -> Iterator[None]:
    """Temporarily make the rows `read` the weight of an embedding."""
    usual, module = embedding.weight, embedding
    table = SortedTable.sort(usual.detach(), read)
    module.__class__ = RowsEmbedding
    module.table = table  # type: ignore[assignment]
    module.weight = nn.Parameter(table.rows[: int(read.sum())])
    try:
        yield
    finally:
        trained: Any = module
        table.rows.copy_(trained.join().restore())
        module.__class__ = nn.Embedding
        module.weight = usual
        del module.table


def keep_state_whole(optimizer: Optimizer, model: nn.Module) -> None:
    """Let an optimizer save and load the state of all rows where `skip_unread_rows` trains some of them."""
    for module in model.modules():
        if isinstance(module, RowsEmbedding):
            saved = partial(_change_state, module.weight, module.expand)
            loaded = partial(_change_state, module.weight, module.shorten)
            optimizer.register_state_dict_post_hook(saved)
            optimizer.register_load_state_dict_pre_hook(loaded)


def _change_state(
    weight: Tensor, change: Callable[[Tensor], Tensor], optimizer: Optimizer, state: dict[str, Any]
) -> dict[str, Any]:
    """Return the state of an optimizer with the moments of a weight changed."""
    trained = [id(each) for group in optimizer.param_groups for each in group["params"]]
    number = trained.index(id(weight))
    moments = {
        name: change(each) if isinstance(each, Tensor) and each.dim() == weight.dim() else each
        for name, each in state["state"].get(number, {}).items()
    }
    return {**state, "state": {**state["state"], number: moments}} if moments else state
