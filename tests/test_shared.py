"""
What changes of the inventory between the manifest and the commit.
"""

import os
import socket
from contextlib import closing

import pytest

from txtableflip._handover.manifest import NO_NEWS, Key, News
from txtableflip._sockets import unixpaths
from txtableflip._sockets.inventory import Descriptor, HeldDescriptor, Inventory
from txtableflip._sockets.shared import Shared, learn
from txtableflip._sockets.unixport import bindUNIX
from txtableflip.errors import ChannelError


def key(name, ordinal=0, kind="file"):
    """
    Name something.
    """
    network = "tcp" if kind == "listener" else ""
    return Key(kind, network, name, ordinal)


def held():
    """
    Hold a descriptor that is no socket.
    """
    return HeldDescriptor(Descriptor(os.open(os.devnull, os.O_RDONLY)))


def listening():
    """
    Hold a TCP socket that listens.
    """
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return HeldDescriptor(sock, backlog=5)


def sent(news):
    """
    Return the same with descriptors of its own, as it comes over a channel.
    """
    return News(news.entries, [os.dup(fileno) for fileno in news.descriptors])


@pytest.fixture
def family():
    """
    The inventory of a parent, what it shares, and the inventory of a child; all that is
    left in them is closed in the end.
    """
    parent, child = Inventory(), Inventory()
    shared = Shared(parent)
    yield parent, shared, child
    shared.letGo()
    for inventory in (parent, child):
        for each in [*inventory.used.values(), *inventory.inherited.values()]:
            each.close()


def test_what_came_is_what_has_not_been_told(family):
    """
    Once; a newer one in the place of another is news; what the application has closed
    is none.
    """
    parent, shared, _ = family
    parent.add(key("a"), held())
    assert [str(entry.key) for entry in shared.news().entries] == ["file a"]
    shared.tell()
    assert shared.news() == (NO_NEWS.entries, [])
    parent.add(key("b"), held())
    newer = parent.add(key("a"), held())
    news = shared.news()
    assert sorted(str(entry.key) for entry in news.entries) == ["file a", "file b"]
    assert newer.handle.fileno() in news.descriptors
    parent.used[key("b")].handle.close()
    assert [str(entry.key) for entry in shared.news().entries] == ["file a"]
    # If no child takes over, the next is told of everything.
    shared.tell()
    shared.takeBack()
    assert len(shared.news().entries) == 1


def test_what_came_is_inherited_as_the_rest(family):
    """
    It replaces what nobody has asked for, which the parent has no more.
    """
    parent, shared, child = family
    parent.add(key("a"), held())
    learn(child, sent(shared.news()))
    shared.tell()
    before = child.inherited[key("a")]
    now = parent.add(key("a"), held())
    parent.add(key("b"), listening())
    learn(child, sent(shared.news()))
    assert not before.isOpen
    assert child.inherited[key("a")].identity == now.identity
    assert child.claim(key("b")).identity == parent.used[key("b")].identity
    learn(child, NO_NEWS)
    assert [str(name) for name in child.inherited] == ["file a"]


def test_a_listener_whose_name_the_child_uses_itself_gets_the_next_one(family):
    """
    That neither of the two has: nothing is lost, whatever the order.
    """
    parent, shared, child = family
    names = [key("x", ordinal, "listener") for ordinal in range(3)]
    for name in names:
        parent.add(name, listening())
    child.add(names[0], listening())
    parent.used[names[0]], inherited = parent.used.pop(names[0]), parent.used[names[1]]
    child.inherited[names[1]] = HeldDescriptor(inherited.handle.dup())
    shared._told.add(inherited)
    learn(child, sent(shared.news()))
    found = {name.ordinal: one.identity for name, one in child.inherited.items()}
    assert found == {
        1: parent.used[names[1]].identity,
        2: parent.used[names[2]].identity,
        3: parent.used[names[0]].identity,
    }


@pytest.mark.parametrize("kind", ["file", "socket", "connection"])
def test_what_replaces_what_is_in_use_is_refused_unless_its_peer_can_come_again(family, kind):
    """
    Then nothing is taken in, and all is closed.
    """
    parent, shared, child = family
    for name in ("a", "b"):
        parent.add(key(name, kind=kind), held())
    child.add(key("b", kind=kind), held())
    news = sent(shared.news())
    if kind == "connection":
        learn(child, news)
        assert set(child.inherited) == {key("a", kind=kind), key("b", kind=kind)}
        return
    with pytest.raises(ChannelError, match=f"has replaced the {kind} b"):
        learn(child, news)
    assert child.inherited == {}
    for fileno in news.descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fileno)


def test_what_a_child_has_is_kept_when_it_is_stopped(family, tmp_path):
    """
    And ended, for whoever has it, when no child takes over; or left to it.
    """
    parent, shared, _ = family
    for takesOver in (False, True):
        path = str(tmp_path / f"{takesOver}.sock")
        name = Key("listener", "unix", path, 0)
        ours = parent.add(name, bindUNIX(path, socket.SOCK_STREAM, 0o600, 5, isLocked=True))
        assert not shared.stop(name, ours)
        shared.tell()
        assert shared.stop(name, ours)
        assert not shared.stop(name, ours)
        assert parent.names() == []
        with closing(ours.handle.dup()):
            assert shared.claim(name) is ours
            assert shared.claim(name) is None
            assert shared.stop(name, ours)
            shared.letGo() if takesOver else shared.takeBack()
            assert not ours.isOpen
            assert os.path.lexists(path) == takesOver
            assert os.path.lexists(unixpaths.lockName(path)) == takesOver
            with socket.socket(socket.AF_UNIX) as client:
                answer = client.connect_ex(path)
            assert (answer == 0) == takesOver
