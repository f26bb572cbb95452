"""
How connections of IRC end when their process exits.
"""

from __future__ import annotations

from typing import Any

from twisted.words.protocols.irc import IRC

from txtableflip._draining.later import TEXT, Farewell


class IRCDrain(Farewell):
    """
    Says ERROR (section 3.7.4 of RFC 2812).
    """

    def say(self) -> None:
        """
        See L{Farewell.say}.
        """
        self.protocol.sendLine(f"ERROR :Closing Link: {TEXT.decode()}")


def adapters() -> dict[type, Any]:
    """
    @return: for each class, what makes an L{IDrainable <txtableflip.IDrainable>} of its
        objects.
    """
    return {IRC: IRCDrain}
