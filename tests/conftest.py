"""
What all tests share.
"""

import datetime as dt
import signal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import settings
from processes import service
from quick import Quick
from twisted.logger import eventAsJSON, globalLogPublisher

__all__ = ["service"]

# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("patient")

# What a shell runs in the background ignores SIGINT, and hands that on to every
# process: none of ours could be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config):
    config.pluginmanager.register(Quick(), "quick")


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
