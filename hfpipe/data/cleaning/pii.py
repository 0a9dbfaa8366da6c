"""Finds personal data by its format and replaces it with placeholders."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection

from hfpipe.data.cleaning.alignment import Change, apply_changes

_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])", re.ASCII
)
_IP = re.compile(
    r"""(?<![\w.:])(?:
        \d{1,3}(?:\.\d{1,3}){3}
        | (?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{2,39}(?:\.\d{1,3}){0,3}
    )(?![\w:]|\.\d)""",
    re.VERBOSE,
)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_PHONE = re.compile(
    r"""(?<![\w.+-])(?:
        \+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}    # +49 30 1234567
        | \(\d{2,5}\)[ .-]?\d{3,4}[ .-]?\d{3,4}                               # (555) 123-4567
        | \d{3}([.-]|[ ])\d{3}\1\d{4}                                         # 555-123-4567
        | 0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,4}                                    # 0171 1234567
    )(?![\w-]|\.\d)""",
    re.VERBOSE,
)


def _is_ip(found: str) -> bool:
    try:
        # `::` alone is usually an operator, not an address
        return bool(ipaddress.ip_address(found)) and any(map(str.isalnum, found))
    except ValueError:
        return False


def _passes_luhn(found: str) -> bool:
    digits = [int(one) for one in found if one.isdigit()][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _has_phone_length(found: str) -> bool:
    return 8 <= sum(map(str.isdigit, found)) <= 15  # E.164


# Cards are matched before phones, because card numbers also look like phone numbers.
_FORMS: dict[str, tuple[re.Pattern[str], Callable[[str], bool], str]] = {
    "email": (_EMAIL, bool, "@"),
    "ip": (_IP, _is_ip, ""),
    "card": (_CARD, _passes_luhn, ""),
    "phone": (_PHONE, _has_phone_length, ""),
}


def mask_pii(text: str, kinds: Collection[str]) -> list[list[Change]]:
    """Return the changes that replace such data with <EMAIL>, <IP>, <CARD> and <PHONE>, one list per kind.

    IP addresses must parse, card numbers must pass the Luhn check, and phone numbers need 8 to 15 digits and
    a country code, brackets or separators; a plain sequence of digits is not replaced.
    """
    passes = []
    for kind, (pattern, holds, mark) in _FORMS.items():
        if kind in kinds and mark in text:
            found = [
                Change(match.start(), match.end(), f"<{kind.upper()}>")
                for match in pattern.finditer(text)
                if holds(match[0])
            ]
            passes.append(found)
            text = apply_changes(text, found)
    return passes
