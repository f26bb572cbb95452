"""
A successor begins as the first generation did, whatever that has made of itself.
"""

import json
import os
import resource

import pytest
from processes import APPS, ask

from txtableflip._launch.limits import VARIABLE, current, takeLimits
from txtableflip.testing._service import freePort

WORSE = """
import json, os, resource
from txtableflip._launch.limits import current
name = "n"
with open("begun", "a") as begun:
    begun.write(json.dumps(current()) + chr(10))
os.nice(3)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
for limit in (resource.RLIMIT_STACK, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (soft - soft // 4 if soft > 0 else 3000, hard))
def heard(line):
    with open("environ", "a") as environ:
        environ.write(str("TXTABLEFLIP_LIMITS" in os.environ))
"""


def test_what_a_release_makes_of_itself_does_not_add_up(service):
    """
    Nice values, processors and soft limits are those of the first generation in each,
    and no process that is started sees the variable.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may be less nice again")
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.release(WORSE)
    service.twistd("tableflip", "--app", str(APPS / "answering.py"))
    for _ in range(2):
        service.redeploy()
    ask(("127.0.0.1", port))
    lines = (service.directory / "begun").read_text().splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1, lines
    assert (service.directory / "environ").read_text() == "False"


@pytest.fixture
def restored():
    """
    This process has the limits that it had, in the end.
    """
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def test_a_limit_that_was_raised_stays(restored):
    """
    A process may need as many descriptors as it is handed.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (min(5, hard) if hard >= 0 else 5, hard))
    said = {**current(), "soft": {"RLIMIT_CORE": 1, "RLIMIT_NOVELTY": 7}}
    text = json.dumps(said)
    environment = {VARIABLE: text}
    assert takeLimits(environment, isSuccessor=True) == text
    assert environment == {}
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] in (5, hard)


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", "null", "{}", '{"nice": "x", "soft": {}}', '{"nice": 1.5, "soft": {}}'],
)
def test_what_is_no_record_changes_nothing(said):
    """
    The process begins as it is.
    """
    before = current()
    assert json.loads(takeLimits({VARIABLE: said}, isSuccessor=True)) == before
    assert current() == before


def test_a_first_generation_believes_no_record():
    """
    It may be that of another service, which has started this one.
    """
    said = json.dumps({"nice": 19, "soft": {}})
    assert json.loads(takeLimits({VARIABLE: said}, isSuccessor=False)) == current()
