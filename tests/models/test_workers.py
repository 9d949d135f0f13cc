"""Forked processes that make replies: whichever is free, given up, failed, killed. In a process of their own."""

import subprocess
import sys
import textwrap

import pytest

HEAD = """
import os, signal, threading, time
from concurrent.futures import ThreadPoolExecutor
from sifthinker.models.workers import Failed, Workers

class Never:
    def is_set(self): return False

"""


def run(body: str) -> str:
    program = HEAD + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_requests_go_to_whichever_is_free() -> None:
    """A long one holds one process; the short ones behind it are all made by the other."""
    assert (
        run("""
        def make(asked, gone, say):
            time.sleep(asked[0])
            return [os.getpid()]
        workers = Workers(make, 2, ())
        with ThreadPoolExecutor(2) as pool:
            long = pool.submit(workers, [0.5], [Never()], None)
            time.sleep(0.05)
            short = {workers([0.0], [Never()], None)[0] for _ in range(5)}
        assert len(short) == 1 and long.result()[0] not in short and os.getpid() not in short
        print("as it should be")
    """)
        == "as it should be\n"
    )


def test_pieces_come_before_the_reply_and_expected_errors_as_they_are() -> None:
    assert (
        run("""
        def made(one, say):
            if one == "bad": return ValueError("no", 3)
            if one == "worse": return KeyError("a mistake")
            if one == "worst": raise KeyError("of all")
            for piece in one if say else (): say(piece)
            return one.upper()
        make = lambda asked, gone, say: [made(one, say) for one in asked]
        workers = Workers(make, 1, (ValueError,))
        heard = []
        assert workers(["abc"], [Never()], heard.append) == ["ABC"] and heard == ["a", "b", "c"]
        for one in workers(["bad", "x", "worse"], [Never()] * 3, None) + workers(["worst", "y"], [Never()] * 2, None):
            print(type(one).__name__, one)
        assert workers(["x"], [Never()], heard.append) == ["X"]
    """)
        == "ValueError ('no', 3)\nstr X\nFailed KeyError: 'a mistake'\n" + "Failed KeyError: 'of all'\n" * 2
    )


@pytest.mark.parametrize("late", [False, True])
def test_a_request_that_nobody_waits_for_is_given_up_and_the_next_one_is_answered(late: bool) -> None:
    """Also when the word comes after the reply was made."""
    assert (
        run(f"""
        def make(asked, gone, say):
            end = time.monotonic() + asked[0]
            while time.monotonic() < end:
                if gone[-1].is_set(): break
                time.sleep(0.01)
            return ["given up" if one.is_set() else "made" for one in gone]
        workers = Workers(make, 1, ())
        class Gone:
            def is_set(self): return True
        if {late}:  # as if the word had been sent just when the reply was
            worker = workers._free.get(); worker.send(0); workers._free.put(worker)
        else:
            print(workers([30, 30], [Never(), Gone()], None))
        print(workers([0.01], [Never()], None))
    """)
        == ("" if late else "['made', 'given up']\n") + "['made']\n"
    )


def test_the_others_go_on_when_one_is_killed_and_the_last_one_is_missed() -> None:
    assert run("""
        def make(asked, gone, say):
            if asked[0] == "die": os.kill(os.getpid(), signal.SIGKILL)
            return asked
        workers = Workers(make, 2, ())
        for asked in ("die", "live", "die", "live"):
            try: print(*workers([asked], [Never()], None))
            except Failed as error: print(str(error).partition(",")[0])
    """).splitlines() == [
        "a process of the server has ended",
        "live",
        "a process of the server has ended",
        "every process of the server has ended: start it again",
    ]
