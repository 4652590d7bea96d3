"""Replies: their wire form, and that none can be injected."""

from hypothesis import given
from hypothesis import strategies as st

from gatepost.base.reply import Code, Refusal, Reply


def test_each_line_carries_code_and_enhanced_code() -> None:
    reply = Reply(Code.NO_SUCH_MAILBOX, "5.1.1", "no such mailbox\nask the postmaster")
    assert reply.octets() == b"550-5.1.1 no such mailbox\r\n550 5.1.1 ask the postmaster\r\n"


def test_no_enhanced_code_leaves_no_blank() -> None:
    assert Reply(Code.READY, "", "mx.example ESMTP").octets() == b"220 mx.example ESMTP\r\n"


@given(st.text(max_size=80))
def test_text_cannot_add_a_reply(text: str) -> None:
    lines = Reply(Code.OK, "2.0.0", text).octets().split(b"\r\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"250 " if at == len(lines) - 1 else b"250-") for at, line in enumerate(lines))
    assert not any(octet < 0x20 or octet == 0x7F for line in lines for octet in line)


def test_a_refusal_keeps_its_detail_from_the_peer() -> None:
    refusal = Refusal(Reply(Code.NO_SUCH_MAILBOX, "5.1.1", "no such mailbox"), detail="bob not in table users")
    assert b"table" not in refusal.reply.octets()
    assert str(refusal) == "bob not in table users"
