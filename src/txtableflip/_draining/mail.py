"""
How connections of SMTP, POP3 and IMAP end when their process exits.
"""

from __future__ import annotations

import sys
from typing import Any

from txtableflip._draining.later import TEXT, Farewell


class SMTPDrain(Farewell):
    """
    Says 421, as RFC 5321 (section 3.8) specifies, between two messages.
    """

    def isBusy(self) -> bool:
        """
        @return: whether the client is handing over a message, or logging in, or still waits
            for the answer to one.
        """
        smtp = self.protocol
        isSending = smtp._from is not None or smtp.mode != "COMMAND"  # noqa: SLF001 - no other way
        return isSending or super().isBusy()

    def say(self) -> None:
        """
        See L{Farewell.say}.
        """
        self.protocol.sendCode(421, TEXT)


class POP3Drain(Farewell):
    """
    Says -ERR, with the code of RFC 3206 for a temporary failure: messages that the client
    has deleted stay, as the session does not end by QUIT.
    """

    def isBusy(self) -> bool:
        """
        @return: whether a command is being answered.
        """
        return self.protocol.blocked is not None or super().isBusy()

    def say(self) -> None:
        """
        See L{Farewell.say}.
        """
        self.protocol.failResponse(b"[SYS/TEMP] " + TEXT)


class IMAP4Drain(Farewell):
    """
    Says BYE (section 7.1.5 of RFC 3501).
    """

    def isBusy(self) -> bool:
        """
        @return: whether a command is being received or answered.  IDLE does not count.
        """
        imap = self.protocol
        isOpen = imap.parseState not in ("command", "idle")
        return isOpen or imap.blocked is not None or super().isBusy()

    def say(self) -> None:
        """
        See L{Farewell.say}.
        """
        self.protocol.sendUntaggedResponse(b"BYE " + TEXT)


_KNOWN = {
    "twisted.mail.smtp": ("SMTP", SMTPDrain),
    "twisted.mail.pop3": ("POP3", POP3Drain),
    "twisted.mail.imap4": ("IMAP4Server", IMAP4Drain),
}


def adapters() -> dict[type, Any]:
    """
    @return: for each class of the protocols that are loaded, what makes an L{IDrainable
        <txtableflip.IDrainable>} of its objects.
    """
    return {
        getattr(sys.modules[module], name): drain
        for module, (name, drain) in _KNOWN.items()
        if module in sys.modules
    }
