"""
Notes in a database: klein, and PostgreSQL.

    export DATABASE="host=/run/postgresql dbname=notes"
    twistd tableflip --app examples/klein_postgres.py
    curl --data "remember the milk" http://localhost:8080/notes
    curl http://localhost:8080/notes
    tableflip upgrade

What an upgrade makes one think of:

- It listens late, when the database has answered.  C{notReadyUntil} has the old process
  serve until then; and if the database cannot be reached, the upgrade fails.
- While the old process drains there are two, each with a pool of connections: PostgreSQL's
  max_connections must allow for both.
- The job that counts runs in one process only: it begins when no older one is left.
- Both releases use one schema: "IF NOT EXISTS", and no column is taken away in the release
  that does not need it any more, but in the one after.
"""

import os

from klein import Klein
from twisted.application.service import Service
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import LoopingCall
from twisted.web.server import Site

from txtableflip import currentUpgrader

RELEASE = "1"
SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text, release text);
CREATE TABLE IF NOT EXISTS counts (at timestamptz DEFAULT now(), notes bigint, process int);
"""


class Notes:
    app = Klein()

    def __init__(self, pool):
        self.pool = pool

    @app.route("/notes", methods=["POST"])
    async def add(self, request):
        text = request.content.read().decode()
        insert = "INSERT INTO notes (text, release) VALUES (%s, %s)"
        await self.pool.runOperation(insert, (text, RELEASE))
        return "noted\n"

    @app.route("/notes")
    async def show(self, request):
        rows = await self.pool.runQuery("SELECT text, release FROM notes ORDER BY id")
        return "".join(f"{text} (release {release})\n" for text, release in rows)


class NotesService(Service):
    def __init__(self, upgrader, endpoint, database):
        self.upgrader = upgrader
        self.endpoint = endpoint
        self.pool = ConnectionPool("psycopg2", database, cp_min=1, cp_max=5, cp_reconnect=True)
        self.job = LoopingCall(self.count)

    def startService(self):
        super().startService()
        self.pool.start()
        self.upgrader.notReadyUntil(Deferred.fromCoroutine(self.listen()))
        self.upgrader.whenParentExits().addCallback(lambda ignored: self.job.start(1))

    async def listen(self):
        await self.pool.runOperation(SCHEMA)
        self.port = await self.endpoint.listen(Site(Notes(self.pool).app.resource()))

    async def stopService(self):
        if self.job.running:
            self.job.stop()
        self.pool.close()
        await super().stopService()

    def count(self):
        count = "INSERT INTO counts (notes, process) SELECT count(*), %s FROM notes"
        return self.pool.runOperation(count, (os.getpid(),))


service = NotesService(
    currentUpgrader(),
    serverFromString(reactor, "tableflip:" + os.environ.get("ENDPOINT", "tcp:8080")),
    os.environ.get("DATABASE", "dbname=notes"),
)
