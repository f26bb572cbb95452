"""
How connections of LDAP, by ldaptor, end when their process exits.
"""

from __future__ import annotations

from typing import Any

from ldaptor.protocols.ldap.ldaperrors import LDAPUnavailable  # type: ignore[import-untyped]
from ldaptor.protocols.ldap.ldapserver import BaseLDAPServer  # type: ignore[import-untyped]
from ldaptor.protocols.pureldap import LDAPExtendedResponse  # type: ignore[import-untyped]

from txtableflip._draining.later import TEXT, Farewell

NOTICE_OF_DISCONNECTION = b"1.3.6.1.4.1.1466.20036"


class LDAPDrain(Farewell):
    """
    Gives notice of disconnection (section 4.4.1 of RFC 4511).
    """

    def say(self) -> None:
        """
        See L{Farewell.say}.
        """
        notice = LDAPExtendedResponse(
            resultCode=LDAPUnavailable.resultCode,
            responseName=NOTICE_OF_DISCONNECTION,
            errorMessage=TEXT,
        )
        self.protocol.queue(0, notice)


def adapters() -> dict[type, Any]:
    """
    @return: for each class, what makes an L{IDrainable <txtableflip.IDrainable>} of its
        objects.
    """
    return {BaseLDAPServer: LDAPDrain}
