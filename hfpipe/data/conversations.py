"""Reads conversations in the common formats, as lists of messages {role, content}."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hfpipe.data.rows import Row
from hfpipe.errors import DataError

ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
"""ShareGPT's roles → OpenAI's."""
KNOWN = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles of OpenAI's messages."""
CALLS = ("tool_calls", "function_call")
"""Keys that a message may have in place of content."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of text parts of a message's content, in OpenAI's chat and responses formats."""


class Conversations:
    """Converts the messages of some columns to one format, and counts the converted rows.

    ShareGPT's `from` and `value` become `role` and `content`, its roles become OpenAI's, and content that
    consists of text parts becomes one string. All other keys are kept.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self.changed: Counter[str] = Counter()
        """Column and kind of conversion → number of rows."""

    def read(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Return the rows with converted conversations. Raises DataError at a malformed one."""
        return map(self._read, rows) if self.columns else rows

    def _read(self, row: Row) -> Row:
        for column in self.columns:
            value = row.values[column]
            if value is not None:
                row.values[column] = self._convert_messages(value, column, row)
        return row

    def _convert_messages(self, value: Any, column: str, row: Row) -> list[dict[str, Any]]:
        if not isinstance(value, (list, tuple)):
            raise DataError(
                f"{row.place}: {column!r} is {value!r:.40}, not a list of messages {{role, content}}; fix "
                "or remove the row"
            )
        changes: dict[str, None] = {}
        found = [
            _convert_message(part, f"{row.place}: message {number} of {column!r}", changes)
            for number, part in enumerate(value, 1)
        ]
        self.changed.update(f"{column}: {change}" for change in changes)
        return found


def _convert_message(part: Any, place: str, changes: dict[str, None]) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise DataError(f"{place} is {part!r:.40}; write {{role: …, content: …}}")
    pairs = (("from", "role"), ("value", "content"))
    renamed = {theirs: ours for theirs, ours in pairs if ours not in part}
    if renamed.keys() & part.keys():
        changes["from, value read as role, content"] = None
    message = {str(renamed.get(key, key)): value for key, value in part.items()}
    message["role"] = _convert_role(message.get("role"), place, changes)
    if "content" in message or not has_calls(message):
        message["content"] = _join_content(message, place, changes)
    return message


def has_calls(message: Mapping[str, Any]) -> bool:
    """Return whether a message calls tools."""
    return any(message.get(key) for key in CALLS)


def is_message(part: Any) -> bool:
    """Return whether a part of a conversation is a message in the format of `Conversations`."""
    return isinstance(part, Mapping) and isinstance(part.get("content"), str | None)


def _convert_role(role: Any, place: str, changes: dict[str, None]) -> str:
    if role in KNOWN:
        return str(role)
    if isinstance(role, str) and role in ROLES:
        changes[f"{role} read as {ROLES[role]}"] = None
        return ROLES[role]
    if role is None:
        raise DataError(f"{place} has no role; write one of {', '.join(KNOWN)}")
    raise DataError(
        f"{place} has the role {role!r:.40}, which is not known; write one of {', '.join(KNOWN)}, or "
        f"ShareGPT's {', '.join(ROLES)}"
    )


def _join_content(message: dict[str, Any], place: str, changes: dict[str, None]) -> str | None:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise DataError(f"{place} has the content {content!r:.40}; write a string, or parts of text")
    for number, part in enumerate(content, 1):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            what = f"of type {kind!r}" if kind not in (None, *TEXT_PARTS) else f"{part!r:.40}"
            raise DataError(
                f"{place} has a part {what} ({number} of {len(content)}), which is not text; "
                "models are trained on text only, so remove the part or the row"
            )
    changes["parts of text joined"] = None
    return "".join(part["text"] for part in content)
