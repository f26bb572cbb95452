"""
Something that happens once, and those who wait for it.
"""

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from txtableflip._observers import OneShot
from txtableflip.errors import Abandoned


def outcomesOf(*deferreds):
    """
    Return, for each Deferred, the list of what it fires with from now on: the
    class of an error for a failure.
    """
    found = []
    for deferred in deferreds:
        outcomes = []
        deferred.addBoth(
            lambda it, outcomes=outcomes: outcomes.append(
                it.type if isinstance(it, Failure) else it
            )
        )
        found.append(outcomes)
    return found


def test_each_caller_is_told_once():
    """
    Everyone who waits gets a Deferred of its own, which fires when it happens,
    and not before, and not again.
    """
    occasion = OneShot()
    deferreds = [occasion.wait() for _ in range(3)]
    told = outcomesOf(*deferreds)
    assert len(set(map(id, deferreds))) == 3
    assert told == [[], [], []]
    occasion.fire()
    occasion.fire()
    assert told == [[None], [None], [None]]


def test_who_comes_late_is_told_at_once():
    """
    After it has happened, or failed, a new Deferred has fired already.
    """
    happened, failed = OneShot(), OneShot()
    happened.fire()
    failed.error(Abandoned("no"))
    assert outcomesOf(happened.wait(), failed.wait()) == [[None], [Abandoned]]


def test_every_caller_is_told_of_the_failure():
    """
    One caller who handles the failure does not hide it from the next.
    """
    occasion = OneShot()
    told = outcomesOf(occasion.wait(), occasion.wait())
    occasion.error(Abandoned("no"))
    assert told == [[Abandoned], [Abandoned]]


def test_the_first_outcome_stays():
    """
    What has happened cannot fail any more, and what has failed cannot happen.
    """
    happened, failed = OneShot(), OneShot()
    told = outcomesOf(happened.wait(), failed.wait())
    happened.fire()
    happened.error(Abandoned("no"))
    failed.error(Abandoned("no"))
    failed.fire()
    assert told + outcomesOf(happened.wait(), failed.wait()) == [
        [None],
        [Abandoned],
        [None],
        [Abandoned],
    ]


def test_one_caller_who_cancels_leaves_the_others():
    """
    Only the Deferred that was cancelled fails, whichever of them it is.
    """
    for which in range(3):
        occasion = OneShot()
        deferreds = [occasion.wait() for _ in range(3)]
        told = outcomesOf(*deferreds)
        deferreds[which].cancel()
        expected = [[], [], []]
        expected[which] = [CancelledError]
        assert told == expected
        occasion.fire()
        expected = [[None], [None], [None]]
        expected[which] = [CancelledError]
        assert told == expected


def test_to_cancel_late_changes_nothing():
    """
    A Deferred that has fired may be cancelled, as any other.
    """
    occasion = OneShot()
    before = occasion.wait()
    occasion.fire()
    after = occasion.wait()
    before.cancel()
    after.cancel()
    assert outcomesOf(before, after) == [[None], [None]]


def test_a_caller_may_wait_again_while_others_are_told():
    """
    Whoever is told may ask again in its own callback, and is told at once.
    """
    occasion = OneShot()
    told = []
    occasion.wait().addCallback(lambda ignored: told.extend(outcomesOf(occasion.wait())))
    told.extend(outcomesOf(occasion.wait()))
    occasion.fire()
    assert told == [[None], [None]]


def test_a_caller_may_cancel_others_while_they_are_told():
    """
    Whoever is told first may cancel the others, which then are not told.
    """
    occasion = OneShot()
    first, second = occasion.wait(), occasion.wait()
    told = outcomesOf(first.addCallback(lambda ignored: second.cancel()), second)
    occasion.fire()
    assert told == [[None], [CancelledError]]
