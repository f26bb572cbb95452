"""
Version 1 of the wire, frozen: each message as it goes over the channel, and what
it means.  Nothing here is ever changed; a later version has a file of its own.
"""

import struct

from txtableflip._handover.manifest import Entry, Identity, Key, UnknownEntry
from txtableflip._handover.messages import (
    Abort,
    Commit,
    Confirm,
    Hello,
    Manifest,
    Range,
    Ready,
    Redeploy,
    Refused,
    Serving,
    Stopping,
    Withdraw,
)

WIRE = [
    (
        (
            b'\x00\x00\x02\xa1{"message":"Manifest","generation":2,"upgradeTimeout":60.0,'
            b'"pidFile":"/run/web.pid","entries":[{"key":{"kind":"listener","network":"tcp",'
            b'"address":"0.0.0.0:80","ordinal":0},"family":2,"type":1,"identity":{"device":8,'
            b'"inode":90},"path":null,"backlog":50,"mode":null},{"key":{"kind":"listener",'
            b'"network":"unix","address":"/run/w\\udcff","ordinal":1},"family":1,"type":1,'
            b'"identity":{"device":8,"inode":91},"path":{"device":3,"inode":7},"backlog":null,'
            b'"mode":384},{"key":{"kind":"file","network":"","address":"log","ordinal":0},'
            b'"family":0,"type":0,"identity":{"device":9,"inode":5},"path":null,"backlog":null,'
            b'"mode":null}],"stderr":true,"speaks":[1,1],"can":[],"descriptors":4}\n'
        ),
        Manifest(
            generation=2,
            upgradeTimeout=60.0,
            pidFile="/run/web.pid",
            entries=(
                Entry(
                    Key("listener", "tcp", "0.0.0.0:80", 0), 2, 1, Identity(8, 90), backlog=50
                ),
                Entry(
                    *(Key("listener", "unix", "/run/w\udcff", 1), 1, 1, Identity(8, 91)),
                    path=Identity(3, 7),
                    mode=0o600,
                ),
                Entry(Key("file", "", "log", 0), 0, 0, Identity(9, 5)),
            ),
            stderr=True,
            speaks=Range(1, 1),
            can=(),
        ),
    ),
    (
        b'\x00\x00\x00\x40{"message":"Hello","pid":7,"version":1,"speaks":[1,1],"can":[]}\n',
        Hello(pid=7, version=1, speaks=Range(1, 1), can=()),
    ),
    (b'\x00\x00\x00\x14{"message":"Ready"}\n', Ready()),
    (
        b'\x00\x00\x00\x2e{"message":"Refused","reason":"no\\u00a0port"}\n',
        Refused("no\xa0port"),
    ),
    (b'\x00\x00\x00\x15{"message":"Commit"}\n', Commit()),
    (b'\x00\x00\x00\x24{"message":"Abort","reason":"late"}\n', Abort("late")),
    (b'\x00\x00\x00\x16{"message":"Serving"}\n', Serving()),
    (b'\x00\x00\x00\x17{"message":"Redeploy"}\n', Redeploy()),
]
"""
What a process of version 1 says.
"""


def _framed(content):
    return struct.pack("!I", len(content)) + content


PROBATION = [
    (
        _framed(
            b'{"message":"Hello","pid":7,"version":1,"speaks":[1,1],"can":["probation"]}\n'
        ),
        Hello(pid=7, version=1, speaks=Range(1, 1), can=("probation",)),
    ),
    (_framed(b'{"message":"Commit","probation":7.5}\n'), Commit(7.5)),
    (_framed(b'{"message":"Confirm"}\n'), Confirm()),
    (_framed(b'{"message":"Withdraw","reason":"late"}\n'), Withdraw("late")),
    (_framed(b'{"message":"Stopping"}\n'), Stopping()),
]
"""
What a process of version 1 says that has the capability C{probation}.
"""

FROM_LATER = [
    (
        (
            b'\x00\x00\x01\xd3{"message":"Manifest","generation":2,"upgradeTimeout":60.0,'
            b'"pidFile":null,"probation":5,"entries":[{"key":{"kind":"listener","network":"tcp",'
            b'"address":"0.0.0.0:80","ordinal":0,"zone":1},"family":2,"type":1,"identity":'
            b'{"device":8,"inode":90,"mount":4},"label":"web"},{"key":{"kind":"pidfd","of":12},'
            b'"unknown":"keep"},{"key":{"kind":"memfd"},"unknown":"close"}],"must":["entries",'
            b'"speaks"],"speaks":[1,4],"can":["probation","migration"],"stderr":false,'
            b'"descriptors":3}\n'
        ),
        Manifest(
            generation=2,
            upgradeTimeout=60.0,
            pidFile=None,
            entries=(
                Entry(Key("listener", "tcp", "0.0.0.0:80", 0), 2, 1, Identity(8, 90)),
                UnknownEntry(key={"kind": "pidfd", "of": 12}, unknown="keep"),
                UnknownEntry(key={"kind": "memfd"}, unknown="close"),
            ),
            stderr=False,
            speaks=Range(1, 4),
            can=("probation", "migration"),
        ),
    ),
    (b'\x00\x00\x00\x20{"message":"Announce","left":5}\n', None),
    (b'\x00\x00\x00\x22{"message":"Announce","must":[]}\nx', None),
]
"""
What a process of a later version may say to one of version 1.
"""
