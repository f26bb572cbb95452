"""
How a process leaves: not one request is cut, and nothing is open longer than it
may be.
"""

import ssl
from functools import partial

import pytest
from httpclients import KINDS, Crowd
from processes import APPS, freePort


def secured(certificate, *protocols):
    """
    Return what wraps a client's socket in TLS, where an end that is no proper
    one is an error.
    """
    context = ssl.create_default_context(cafile=certificate)
    if protocols:
        context.set_alpn_protocols(protocols)
    return partial(context.wrap_socket, server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.fixture
def site(service, certificate):
    """
    A function that starts the site as a daemon on TCP, TLS and a UNIX path, and
    returns the address of each and what wraps a socket to it.
    """

    def start(*options):
        plain, secure = freePort(), freePort()
        path = service.directory / "site.sock"
        tls = f"privateKey={certificate}:certKey={certificate}"
        service.environment["ENDPOINTS"] = (
            f"tableflip:tcp:{plain}:interface=127.0.0.1 "
            f"tableflip:ssl:{secure}:interface=127.0.0.1:{tls} tableflip:unix:{path}"
        )
        service.twistd("tableflip", *options, "--app", str(APPS / "site.py"))
        return {
            "TCP": (("127.0.0.1", plain), lambda sock: sock),
            "TLS": (("127.0.0.1", secure), secured(certificate)),
            "UNIX": (str(path), lambda sock: sock),
        }

    return start


def test_not_one_request_is_cut_in_ten_upgrades(service, site):
    """
    Requests of every kind are under way all the time, over TCP, TLS and a UNIX
    path: one on each connection, many, many at once, slow ones, large ones,
    and uploads.  Each is answered, and whole, over ten upgrades.
    """
    with Crowd(site()) as crowd:
        for generation in range(2, 12):
            service.redeploy()
            crowd.waitFor(generation)
    assert crowd.failures == []
    served = {name for name, _ in crowd.answers}
    assert len(served) == 3 * len(KINDS), f"only these were answered: {served}"
    for name in served:
        if "large" not in name:
            generations = {found for kind, found in crowd.answers if kind == name}
            assert len(generations) > 5, f"{name}: answered by {generations}"
