"""
How connections of SSH end when their process exits.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.ssh.transport import DISCONNECT_BY_APPLICATION, SSHServerTransport

from txtableflip._draining.later import TEXT, Later


class SSHDrain(Later):
    """
    Disconnects, with a text that clients show (section 11.1 of RFC 4253): when no session
    is open any more, or else shortly before it would be aborted.
    """

    isUrgent = True

    def isBusy(self) -> bool:
        """
        @return: whether something runs for the client: a shell, a command, a forwarding.
        """
        return bool(getattr(self.protocol.service, "channels", None))

    def close(self) -> None:
        """
        See L{Later.close}.
        """
        self.protocol.sendDisconnect(DISCONNECT_BY_APPLICATION, TEXT)


def adapters() -> dict[type, Any]:
    """
    @return: for each class, what makes an L{IDrainable <txtableflip.IDrainable>} of its
        objects.
    """
    return {SSHServerTransport: SSHDrain}
