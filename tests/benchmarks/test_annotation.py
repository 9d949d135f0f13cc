import pytest

from tests.benchmarks import annotation


@pytest.mark.e2e
def test_the_table_shows_both_ways_side_by_side(monkeypatch):
    monkeypatch.setattr(annotation, "STALL", 1.0)
    theirs, ours = annotation.compare(60, ("authors", "ours"), latency=0.02)
    assert (theirs["way"], ours["way"]) == ("authors", "ours")
    assert ours["kept"] + ours["rejected"] == 60
    assert ours["sound"] == ours["kept"] > theirs["sound"]
    lines = annotation.markdown([theirs, ours]).splitlines()
    assert lines[0] == (
        "| way | faults | rows | answers paid | tokens | sound rows a second "
        "| kept | sound | rejected | seconds | peak MiB |"
    )
    assert len(lines) == 4


def test_the_rate_is_measured():
    result = annotation.rate(64, concurrency=16, latency=0.05)
    assert result["calls"] == 64
    assert 0 < result["share of the ideal rate"] <= 1
