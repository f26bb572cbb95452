"""
How connections of FTP end when their process exits.
"""

from __future__ import annotations

from typing import Any

from twisted.protocols.ftp import FTP

from txtableflip._draining.later import TEXT, Farewell


class FTPDrain(Farewell):
    """
    Says 421, as RFC 959 (section 5.4) specifies, between two transfers.
    """

    def isBusy(self) -> bool:
        """
        @return: whether a command runs, or the next one belongs to the one before.
        """
        ftp = self.protocol
        hasPort = ftp.dtpFactory is not None
        return ftp.paused or hasPort or ftp.state == FTP.RENAMING or super().isBusy()

    def say(self) -> None:
        """
        See L{Farewell.say}.
        """
        self.protocol.sendLine(f"421 {TEXT.decode()}")


def adapters() -> dict[type, Any]:
    """
    @return: for each class, what makes an L{IDrainable <txtableflip.IDrainable>} of its
        objects.
    """
    return {FTP: FTPDrain}
