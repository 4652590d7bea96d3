"""What a sender wishes for its mail stays with it in the queue, and decides there."""

from pathlib import Path

import msgspec
import pytest

from gatepost.base.envelope import NO_WISHES, Privacy, Wishes
from gatepost.base.ids import MailId
from gatepost.queue.envelope import envelopes
from gatepost.queue.model import unpack_mail
from gatepost.relay.model import Consignment
from tests.queue.world import NO, Scripted, World, world
from tests.support.databases import open_sqlite
from tests.support.loop import run

REQUIRED = Wishes(Privacy.REQUIRED)


def watch(w: World) -> list[Consignment]:
    """Return the consignments that the relay is given from now on."""
    seen: list[Consignment] = []

    async def look(consignment: Consignment) -> None:
        seen.append(consignment)

    w.relay.hook = look
    return seen


@pytest.mark.parametrize("wishes", [NO_WISHES, REQUIRED, Wishes(Privacy.WAIVED)])
def test_wishes_are_kept_with_the_mail(tmp_path: Path, wishes: Wishes) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            seen = watch(w)
            name = await w.submit("bob@far.example", wishes=wishes)
            lines = dict((await envelopes(w.database, name, w.settings))[0])
            assert lines.get("privacy", "usual") == wishes.privacy.value
            await w.work()
            assert [each.wishes for each in seen] == [wishes]

    run(play())


def test_a_row_of_an_older_version_has_no_wishes() -> None:
    old = msgspec.msgpack.encode([["ann", "here.example"], False, False, "", "", True, 100, None])
    assert unpack_mail(MailId(1), 0, 0, 0, 1, old).wishes is NO_WISHES


def test_the_report_of_a_mail_that_requires_tls_requires_it_too(tmp_path: Path) -> None:
    """RFC 8689 §5; of the mail it has the header alone, as every report here."""

    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"no@far.example": NO})) as w:
            seen = watch(w)
            await w.submit("no@far.example", sender="ann@near.example", wishes=REQUIRED, ret="FULL")
            await w.submit("no@far.example", sender="bea@near.example", wishes=Wishes(Privacy.WAIVED))
            await w.work()
            reports = {str(each.recipients[0].address): each.wishes for each in seen if each.sender is None}
            assert reports == {"ann@near.example": REQUIRED, "bea@near.example": NO_WISHES}
            assert all(b"body\r\n" not in content for content in w.relay.contents)

    run(play())
