"""
What people call a release: a label, from one of three sources.
"""

import os

import pytest
from twisted.python import usage

from txtableflip._launch.release import checkRelease, readRelease, releaseHere, releaseIn
from txtableflip.options import UpgradeOptions


@pytest.mark.parametrize("label", ["", "a\nb", "x" * 101, "\x1b[2J", "\udcff"])
def test_a_label_is_a_printable_line(label):
    """
    Each line of the log has it.
    """
    with pytest.raises(ValueError, match="a release is a line of 1 to 100"):
        checkRelease(label)


def test_a_file_has_a_label_and_space_around_it(tmp_path):
    """
    As what a deployment writes, or C{git rev-parse HEAD}.
    """
    path = tmp_path / "REVISION"
    path.write_text(" v42 (blue)\n\n")
    assert readRelease(str(path)) == "v42 (blue)"
    for content in (b"", b"\n", b"a\nb", b"x" * 1000, b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a release is a line|REVISION is not text"):
            readRelease(str(path))
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        readRelease(str(path))


def test_the_last_link_of_a_name_leads_to_the_label(tmp_path):
    """
    However many links it takes, and wherever in the name it is.
    """
    real = tmp_path.resolve() / "releases" / "42"
    (real / "app").mkdir(parents=True)
    (tmp_path / "current").symlink_to("stable")
    (tmp_path / "stable").symlink_to("releases/42/")
    for name, label in (
        ("current", "42"),
        ("current/", "42"),
        ("current/app", "42"),
        ("stable/app/nowhere", "42"),
    ):
        assert releaseIn(str(tmp_path / name)) == label
    for name in (real, real / "app", "/", "relative"):
        assert releaseIn(str(name)) is None
    (tmp_path / "odd").symlink_to("a\tb")
    assert releaseIn(str(tmp_path / "odd")) is None


def test_a_link_that_leads_elsewhere_is_of_no_account(tmp_path, monkeypatch):
    """
    It is the label of what runs here, or nothing.
    """
    (tmp_path / "42").mkdir()
    (tmp_path / "current").symlink_to("42")
    monkeypatch.chdir(tmp_path)
    for directory in ("current", "nowhere", ""):
        assert releaseHere(os.path.join(tmp_path, directory)) is None
    monkeypatch.chdir(tmp_path / "42")
    assert releaseHere(str(tmp_path / "current")) == "42"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--release", "a\nb"], "a release is a line"),
        (["--release-file", "/nowhere"], "/nowhere cannot be read"),
        (["--release", "1", "--release-file", "{file}"], "--release or --release-file"),
    ],
)
def test_a_label_that_cannot_be_is_a_usage_error(tmp_path, words, reason):
    """
    Before anything is started.
    """
    (tmp_path / "file").write_text("2")

    def parse():
        options = UpgradeOptions()
        options.parseOptions([word.format(file=tmp_path / "file") for word in words])
        options.checkUpgradeOptions()

    with pytest.raises(usage.UsageError, match=reason):
        parse()
