"""
What all tests share.
"""

import compileall
import datetime as dt
import gc
import os
import signal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import settings
from processes import address, service
from quick import Quick
from twisted.logger import eventAsJSON, globalLogPublisher

import txtableflip

__all__ = ["address", "service"]

# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("patient")

# What a shell runs in the background ignores SIGINT, and hands that on to every
# process: none of ours could be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
# As nohup(1) does with this one.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Each process loads all plugins in search of "tableflip:", Autobahn's too, which takes
# twice as long with its C code as without.
os.environ["AUTOBAHN_USE_NVX"] = "0"


def pytest_configure(config):
    config.pluginmanager.register(Quick(), "quick")
    if not hasattr(config, "workerinput"):
        # Each process would do it for itself where Python is to write no bytecode, as in
        # many a container, and a quarter of what its start costs.
        compileall.compile_dir(os.path.dirname(txtableflip.__file__), quiet=2)


@pytest.fixture(autouse=True)
def every_field_of_the_log_is_json():
    """
    Whatever a test has us log, an observer for JSON could write.
    """
    lost = []

    def look(event):
        if event.get("log_namespace", "").startswith("txtableflip."):
            own = {name: event[name] for name in event if not name.startswith("log_")}
            if "unpersistable" in eventAsJSON(own):
                lost.append(own)

    globalLogPublisher.addObserver(look)
    yield
    globalLogPublisher.removeObserver(look)
    assert lost == []


@pytest.fixture(autouse=True)
def only_first_variants_are_measured(request):
    """
    To measure what the processes of a test run makes their start half as long again, and
    what its other variants run is what the first did, but for a few lines.
    """
    variant = getattr(request.node, "callspec", None)
    if variant is None or not any(variant.indices.values()):
        yield
        return
    measured = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    yield
    if measured is not None:
        os.environ["COVERAGE_PROCESS_CONFIG"] = measured


MOST_LEFT = 120
"""
How many descriptors all tests of a process together may leave open: L{freePort} keeps 50,
and some are closed when somebody collects the garbage.
"""


@pytest.fixture(scope="session")
def left_open():
    """
    How many were open when the first test of this process began, and are to be left.
    """
    return [len(os.listdir("/proc/self/fd"))]


@pytest.fixture(autouse=True)
def descriptors_do_not_add_up(left_open):
    """
    What tests leave open is not more with each of them: others would have numbers that
    select(2) does not take.
    """
    yield
    if len(os.listdir("/proc/self/fd")) <= left_open[0] + MOST_LEFT:
        return
    # With an eager collector (quick.py), what was garbage before has been frozen.
    gc.unfreeze()
    gc.collect()
    left = len(os.listdir("/proc/self/fd"))
    if left > left_open[0] + MOST_LEFT:
        # Said once, and not by each test that follows.
        left_open[0] = left
        pytest.fail(f"the tests so far have left {left} descriptors open")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """
    The path of a file with a self-signed certificate for localhost and its key.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
