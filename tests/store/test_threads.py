"""Threads by references and by subject (RFC 5256 §3 and its examples)."""

import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.store.thread import Thread, Threaded, ThreadIds, by_references, by_subject


def mail(uid: int, own: str, *above: str, subject: str = "", reply: bool = False, at: int = 0) -> Threaded:
    """Make a message; without `at` its UID is its time."""
    ids = ThreadIds(own.encode(), tuple(each.encode() for each in above), reply)
    return Threaded(uid, at or uid, (subject or own).encode(), ids)


def shape(threads: list[Thread]) -> str:
    """Write threads as THREAD does."""

    def inner(thread: Thread) -> str:
        head = str(thread.uid) if thread.uid else ""
        if len(thread.answers) == 1 and thread.uid:
            return f"{head} {inner(thread.answers[0])}"
        rest = "".join(f"({inner(answer)})" for answer in thread.answers)
        return f"{head} {rest}" if head and rest else head + rest

    return "".join(f"({inner(thread)})" for thread in threads)


def test_answers_hang_below_what_they_answer() -> None:
    found = by_references([mail(3, "c", "a", "b"), mail(1, "a"), mail(2, "b", "a"), mail(4, "d", "a")])
    assert shape(found) == "(1 (2 3)(4))"


def test_a_missing_parent_keeps_its_answers_together() -> None:
    assert shape(by_references([mail(1, "b", "gone"), mail(2, "c", "gone")])) == "((1)(2))"
    assert shape(by_references([mail(1, "b", "gone")])) == "(1)"
    assert shape(by_references([mail(1, "a"), mail(2, "c", "a", "gone")])) == "(1 2)"


def test_same_subjects_are_gathered() -> None:
    original = mail(1, "a", subject="peas")
    reply = mail(2, "b", subject="peas", reply=True)
    other = mail(3, "c", subject="peas")
    assert shape(by_references([original, reply])) == "(1 2)"
    assert shape(by_references([original, other])) == "((1)(3))"
    assert shape(by_references([reply, original])) == "(1 2)"
    assert shape(by_references([mail(1, "b", "gone", subject="s"), mail(2, "c", "gone", subject="s"),
                                mail(3, "d", subject="s", reply=True)])) == "((1)(2)(3))"  # fmt: skip


def test_messages_without_ids_or_with_the_same_one_all_appear() -> None:
    found = by_references(
        [mail(1, "", subject="x"), mail(2, "", subject="y"), mail(3, "a"), mail(4, "a", subject="z")]
    )
    assert shape(found) == "(1)(2)(3)(4)"


def test_cycles_are_cut() -> None:
    found = by_references([mail(1, "a", "b"), mail(2, "b", "a"), mail(3, "c", "c"), mail(4, "d", "e", "d")])
    assert sorted(uids(found)) == [1, 2, 3, 4]


def test_by_subject_puts_all_answers_beside_each_other() -> None:
    messages = [mail(n, str(n), subject=subject) for n, subject in ((1, "a"), (2, "b"), (3, "a"), (4, "a"))]
    assert shape(by_subject(messages)) == "(1 (3)(4))(2)"


def uids(threads: list[Thread]) -> list[int]:
    """Return all UIDs."""
    found, waiting = [], list(threads)
    while waiting:
        thread = waiting.pop()
        found += [thread.uid] if thread.uid else []
        waiting += thread.answers
    return found


NAMES = st.sampled_from("abcdefg")


@given(st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=4), NAMES, st.booleans()), max_size=12))
@settings(max_examples=200, deadline=None)
def test_every_message_is_in_one_thread_once(messages: list[tuple[str, list[str], str, bool]]) -> None:
    given_ = [
        mail(at, own, *above, subject=subject, reply=reply)
        for at, (own, above, subject, reply) in enumerate(messages, 1)
    ]
    assert sorted(uids(by_references(given_))) == [each.uid for each in given_]
    assert sorted(uids(by_subject(given_))) == [each.uid for each in given_]


def test_time_does_not_explode_on_chains_stars_and_cycles() -> None:
    size = 5_000
    chain = [mail(n, str(n), str(n - 1)) for n in range(1, size)]
    shuffled = chain.copy()
    random.Random(1).shuffle(shuffled)
    star = [mail(n, str(n), "root", str(n + 1)) for n in range(1, size)]
    cycle = [mail(n, str(n), str(n % 50), str((n + 1) % 50), subject="same", reply=True) for n in range(1, size)]
    begun = time.process_time()
    for messages in (chain, shuffled, chain[::-1], star, cycle):
        assert len(uids(by_references(messages))) == size - 1
    assert time.process_time() - begun < 5
