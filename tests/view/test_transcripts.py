"""The IMAP and POP3 transcripts, in memory, whole and octet by octet."""

from pathlib import Path

import pytest

from tests.support.transcript import MemoryPeer, Transcript, named, play, transcripts
from tests.view.world import World, scene

ALL = transcripts(Path(__file__).parent.parent / "transcripts" / "imap")


@pytest.mark.parametrize("octets_at_once", [1 << 20, 1])
@pytest.mark.parametrize("transcript", ALL, ids=named(ALL))
def test_a_transcript_in_memory(transcript: Transcript, octets_at_once: int) -> None:
    async def played(here: World) -> None:
        facts = transcript.facts
        if "mail" in facts:
            await here.deliver(facts["mail"].encode().decode("unicode_escape").encode("latin-1"))
        async with here.wire(facts["port"], ip="192.0.2.9", tls="tls" in facts) as wire:
            await play(transcript, MemoryPeer(wire), octets_at_once=octets_at_once)

    scene(played)
