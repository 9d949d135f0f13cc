"""spill: a dict in a file."""

from hypothesis import given
from hypothesis import strategies as st

from sifthinker.data.disk_dict import Spill

KEYS = st.text(st.characters(), max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["set", "setdefault"]), KEYS, st.integers(-(2**53), 2**53))))
def test_it_is_a_dict(done):
    expected: dict[str, int] = {}
    with Spill() as found:
        for what, key, value in done:
            if what == "set":
                expected[key] = found[key] = value
            else:
                assert found.setdefault(key, value) == expected.setdefault(key, value)
        for key in [*expected, "absent"]:
            assert found.get(key) == expected.get(key)
