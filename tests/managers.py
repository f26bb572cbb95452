"""
A service manager that writes down what it is told, and does nothing else.
"""

import os
import socket
import struct
import threading
import uuid

import pytest
from processes import DEADLINE, until

CREDENTIALS = struct.Struct("3i")


class Told:
    """
    One datagram.

    @ivar pid: who has sent it.
    @ivar said: what it says, by name.
    """

    def __init__(self, pid, lines, descriptors):
        self.pid = pid
        self.said = dict(line.split("=", 1) for line in lines.split("\n"))
        self.descriptors = descriptors

    def __repr__(self):
        return f"{self.pid}: {self.said}"


class Manager:
    """
    Listens at the socket of C{NOTIFY_SOCKET}, and hears barriers.

    @ivar address: what that variable is to say.
    @ivar told: all datagrams so far, but for barriers and pulses.
    @ivar pulses: who has sent C{WATCHDOG=1}, each time.
    @ivar store: what has been deposited, by name.
    @ivar pipe: the number of a reading end for C{TXTABLEFLIP_KEEPER}.
    """

    def __init__(self):
        name = f"manager-{uuid.uuid4().hex}"
        self.address = f"@{name}"
        self.told = []
        self.pulses = []
        self.store = {}
        self.pipe, self._keeping = os.pipe()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{name}")
        self._listens = threading.Event()
        self._listens.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(8192, 1024)
            self._listens.wait(DEADLINE)
            pid, descriptors = 0, []
            for _, kind, packed in ancillary:
                if kind == socket.SCM_RIGHTS:
                    descriptors += struct.unpack(f"{len(packed) // 4}i", packed)
                elif kind == socket.SCM_CREDENTIALS:
                    pid = CREDENTIALS.unpack(packed[: CREDENTIALS.size])[0]
            if data == b"end":
                return
            self._hear(Told(pid, data.decode(), descriptors))

    def _hear(self, told):
        if "BARRIER" in told.said:
            [barrier] = told.descriptors
            os.close(barrier)
        elif "WATCHDOG" in told.said:
            self.pulses.append(told.pid)
        else:
            self._keep(told)
            self.told.append(told)

    def _keep(self, told):
        name = told.said.get("FDNAME")
        if "FDSTORE" in told.said:
            fileno = told.descriptors.pop()
            if name in self.store:
                # The same one, as systemd finds out; its first name stays.
                assert os.fstat(fileno).st_ino == os.fstat(self.store[name]).st_ino
                os.close(fileno)
            else:
                self.store[name] = fileno
        elif "FDSTOREREMOVE" in told.said and name in self.store:
            os.close(self.store.pop(name))

    def stop(self):
        """
        Hear nothing, until L{goOn}.
        """
        self._listens.clear()

    def goOn(self):
        """
        Hear all that has come.
        """
        self._listens.set()

    def leave(self):
        """
        End as a keeper does that is killed.
        """
        if self._keeping is not None:
            os.close(self._keeping)
            self._keeping = None

    def has(self, pid, **said):
        """
        Wait until a process has said something, and return the first such datagram.
        """

        def found():
            for told in self.told:
                if told.pid == pid and said.items() <= told.said.items():
                    return told
            return None

        return until(found, lambda: f"{said} of {pid}: {self.told}")

    def heard(self, *names):
        """
        Return what has been said in this order: who, and what of these names.
        """
        return [
            (told.pid, name, told.said[name])
            for told in self.told
            for name in told.said
            if name in names
        ]

    def close(self):
        """
        End.
        """
        self.goOn()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self._socket.getsockname())
        self._thread.join(DEADLINE)
        self._socket.close()
        for told in self.told:
            for each in told.descriptors:
                os.close(each)
        for each in self.store.values():
            os.close(each)
        self.leave()
        os.close(self.pipe)


@pytest.fixture
def told():
    """
    A service manager.
    """
    manager = Manager()
    yield manager
    manager.close()
