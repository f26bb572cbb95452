"""
Any message between two generations, and anything else, for Hypothesis.
"""

from hypothesis import strategies as st

from txtableflip._handover.manifest import Entry, Identity, Key
from txtableflip._handover.messages import (
    Abort,
    Commit,
    Hello,
    Manifest,
    Ready,
    Redeploy,
    Refused,
    Serving,
)

integers = st.integers(-(2**70), 2**70)
times = st.floats(allow_nan=False, allow_infinity=False)
# Python has what is no UTF-8 in the name of a file as a lone surrogate.
texts = st.text(st.characters(codec=None, categories=None), max_size=20)
keys = st.builds(Key, texts, texts, texts, integers)
identities = st.builds(Identity, integers, integers)
entries = st.builds(Entry, keys, integers, integers, identities, st.none() | identities)
manifests = st.builds(
    Manifest,
    integers,
    times,
    st.none() | texts,
    st.lists(entries, max_size=4).map(tuple),
)
messages = st.one_of(
    manifests,
    st.builds(Hello, integers),
    st.builds(Refused, texts),
    st.builds(Abort, texts),
    *map(st.just, (Ready(), Commit(), Serving(), Redeploy())),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)
