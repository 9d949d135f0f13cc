"""How long the Prefect server waits with an event for the one before it, so that alerts are sent within seconds.

The server's environment names this module: PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=tasks.runtime.event_order. With it come
`tasks.runtime.sqlite_writes` and `tasks.runtime.webhook_calls`.

An event of a run names the event before it, when that is less than five minutes old. Automations, and so alerts, see it after
that one. Prefect waits 15 minutes for an event that never comes, and two kinds never come: that of a state which a schedule gave
a run (the scheduler sends none), and those that a server had seen before it was restarted. In a server of one process, which
keeps its events in memory, the event before is there within seconds or not at all.
"""

from datetime import timedelta

from prefect.server.events.ordering import memory

from tasks.runtime import sqlite_writes, webhook_calls

WAIT = timedelta(seconds=20)

_ITS_OWN = "PRECEDING_EVENT_LOOKBACK"  # Prefect's wait; the class below reads it whenever an event is early
assert hasattr(memory, _ITS_OWN), f"Prefect has changed: {memory.__name__} has no {_ITS_OWN}"

setattr(memory, _ITS_OWN, WAIT)
sqlite_writes.wait_for_their_turn()
webhook_calls.apart()
CausalOrdering = memory.CausalOrdering
