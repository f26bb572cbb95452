"""
A chat whose connections migrate: see C{members.py}.

C{$RELEASE_FILE} is run first, and sets C{listeners} (of each how to migrate, and the size of
a room), and maybe C{options}; or changes the classes.
"""

import os
from pathlib import Path

from members import Member, Rooms
from twisted.internet import reactor
from twisted.logger import globalLogBeginner, textFileLogObserver

from txtableflip import Snapshot, Upgrader, UpgradeService

names = {"Member": Member, "Rooms": Rooms, "Snapshot": Snapshot, "options": {}}
names |= {"listeners": {}, "reactor": reactor}
exec(Path(os.environ["RELEASE_FILE"]).read_text(), names)
log = open("twistd.log", "a")  # noqa: SIM115 - until the process ends
globalLogBeginner.beginLoggingTo([textFileLogObserver(log)])
upgrader = names["upgrader"] = Upgrader(reactor, pidFile="twistd.pid", **names["options"])
for description, (migrate, size) in names["listeners"].items():
    upgrader.endpoint(description, migrate=migrate).listen(Rooms(size))
UpgradeService(upgrader, 60).startService()
reactor.run()
