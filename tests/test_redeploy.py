"""
The main promise: a daemon is redeployed again and again under load, and no
client can tell.
"""

from processes import APPS, Clients, freePort, until


def test_no_client_notices_ten_upgrades(service):
    """
    Eight clients that connect without a pause meet ten upgrades by SIGHUP, and
    each of their questions is answered in full.
    """
    port = freePort()
    service.environment["ENDPOINTS"] = f"tableflip:tcp:{port}:interface=127.0.0.1"
    service.twistd("tableflip", "--app", str(APPS / "answering.py"))
    with Clients(("127.0.0.1", port)) as clients:
        for number in range(2, 12):
            service.release(f"name = '{number}'")
            service.redeploy()
            until(lambda number=number: number in clients.generations, "its answer")
    assert clients.failures == []
    assert clients.generations == set(range(1, 12))
