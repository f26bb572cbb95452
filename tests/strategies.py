"""
Any message between two generations, and anything else, for Hypothesis.
"""

import json

from hypothesis import strategies as st

from txtableflip._handover.manifest import KINDS, Entry, Identity, Key, UnknownEntry
from txtableflip._handover.messages import (
    SPEAKS,
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

integers = st.integers(-(2**70), 2**70)
times = st.floats(allow_nan=False, allow_infinity=False)
# Python has what is no UTF-8 in the name of a file as a lone surrogate.
texts = st.text(st.characters(codec=None, categories=None), max_size=20)
names = st.lists(texts, max_size=3).map(tuple)
releases = st.none() | texts.filter(bool)
keys = st.builds(Key, st.sampled_from(sorted(KINDS)), texts, texts, integers)
identities = st.builds(Identity, integers, integers)
optional = st.none() | integers
entries = st.builds(
    Entry, keys, integers, integers, identities, st.none() | identities, optional, optional
)
# What these two have in common is spoken, whatever else.
ranges = st.builds(Range, st.integers(-5, SPEAKS.oldest), st.integers(SPEAKS.newest, 9))


def manifestsOf(entries):
    """
    Make manifests of such entries.
    """
    return st.builds(
        Manifest,
        integers,
        times,
        st.none() | texts,
        st.lists(entries, max_size=4).map(tuple),
        speaks=ranges,
        can=names,
        release=releases,
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)

finite = JSON.filter(lambda value: "NaN" not in json.dumps(value))
finite = finite.filter(lambda value: "Infinity" not in json.dumps(value))


@st.composite
def unknownEntries(draw):
    """
    Make entries of kinds that nobody knows yet.
    """
    entry = draw(st.dictionaries(texts, finite, max_size=3))
    kind = draw(texts.filter(lambda kind: kind not in KINDS))
    entry["key"] = {**draw(st.dictionaries(texts, finite, max_size=2)), "kind": kind}
    entry.pop("unknown", None)
    if draw(st.booleans()):
        entry["unknown"] = draw(st.sampled_from(["keep", "close"]))
    return UnknownEntry(entry)


manifests = manifestsOf(entries)
messages = st.one_of(
    manifests,
    st.builds(Hello, integers, st.just(SPEAKS.newest), ranges, names, releases),
    st.builds(Refused, texts),
    st.builds(Abort, texts, st.booleans()),
    st.builds(Withdraw, texts),
    st.builds(Commit, times),
    *map(st.just, (Ready(), Serving(), Confirm(), Stopping(), Redeploy())),
)

# These come with descriptors.
news = st.lists(entries | unknownEntries(), min_size=1, max_size=3).map(tuple)
commits = st.builds(Commit, times, news)
