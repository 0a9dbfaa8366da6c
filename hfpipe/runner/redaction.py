"""Removes passwords and tokens from texts that are stored in the folder of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

HIDDEN = "***"
"""Replacement of a removed secret."""
SHORTEST = 8
"""Minimum length of the value of a secret environment variable; `true` or `100000` is not a secret."""
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@'\"]*@")
"""Userinfo of a URL inside of a text, where a quote ends the URL."""
_FORMS = re.compile(r"\b(hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-)[A-Za-z0-9][\w-]{18,}")
_WORDS = (
    r"(?:[\w.-]*[_.-])?(?:password|passwd|passphrase|secret|credentials?|(?:api|access|private)[_-]?key"
    r"|(?:hub|hf|auth|access|api|bearer|refresh)[_-]?token)"
)
"""Names of secrets; other tokens, such as `mask_token`, are not secrets."""
_NAMED = re.compile(rf"(?i)((?:^|[\s,{{&?\"'-]){_WORDS}\"?'?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,}}&]+)")
_OPTION = re.compile(rf"(?i)--?(?:{_WORDS}|token)")
_VARIABLE = re.compile(
    r"(?i)(?:.*_)?(?:tokens?|pass|passw\w*|passphrase|secrets?|credentials?|key|pat)(?:_.*)?"
)


def redact(text: str) -> str:
    """Return a text without passwords: userinfo of URLs, tokens by their form, and named secrets.

    The values of environment variables whose names indicate a secret are removed everywhere.
    """
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    for value in _find_secrets():
        text = text.replace(value, HIDDEN)
    text = _FORMS.sub(rf"\1{HIDDEN}", text)
    return _NAMED.sub(rf"\1{HIDDEN}", text)


def redact_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command without passwords, including those that follow such an option."""
    found: list[str] = []
    for number, word in enumerate(words):
        follows = number > 0 and _OPTION.fullmatch(words[number - 1]) is not None
        found.append(HIDDEN if follows else redact(word))
    return found


def _find_secrets() -> list[str]:
    """Return the secrets in the environment, longest first, because one may be part of another."""
    values = {
        value for name, value in os.environ.items() if _VARIABLE.fullmatch(name) and len(value) >= SHORTEST
    }
    return sorted(values, key=len, reverse=True)
