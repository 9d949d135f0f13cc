"""What tests look up in a ledger of paid calls."""

from sifthinker.llm.ledger import Ledger


def counts(ledger: Ledger) -> dict[str, int]:
    """Requests by state."""
    return dict(ledger._db.execute("SELECT state, count(*) FROM calls GROUP BY state").fetchall())
