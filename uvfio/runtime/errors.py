# SPDX-License-Identifier: GPL-2.0-only
"""
Three kinds of failure, never mixed.

A host ``OSError`` is a fourth thing and must never reach the modelled kernel.
"""

from errno import errorcode

# Numbers with two names, of which Python knows the one that kernel people do not use.
_PREFERRED = {95: "EOPNOTSUPP", 35: "EDEADLK"}


def errno_name(number: int) -> str:
    """
    >>> errno_name(22), errno_name(95)
    ('EINVAL', 'EOPNOTSUPP')
    """
    return _PREFERRED.get(number) or errorcode.get(number, str(number))


class Errno(Exception):
    """The modelled kernel's answer to its caller. Never used for a host error."""

    def __init__(self, number: int, why: str = "") -> None:
        super().__init__(number, why)
        self.number = number
        self.why = why

    def __str__(self) -> str:
        name = errno_name(self.number)
        return f"{name}: {self.why}" if self.why else name


class Splat(Exception):
    """
    The modelled kernel broke a rule: a finding to report, not a crash.

    *kind* is the short name a scenario or a bug expects (``use-after-free``,
    ``deadlock``, ``warning``, ...); the message is what the kernel would print.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class InternalError(Exception):
    """uvfio itself is wrong; please report it with the command that led here."""
