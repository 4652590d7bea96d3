"""Keys of encryption at rest: OpenSMTPD's framing, key files, and which keys a database may be opened with."""

import random
from pathlib import Path

import pytest

from gatepost.base.clock import Instant
from gatepost.blobs.keys import KEYS_MAX, NO_KEYS, BadKeyFile, Key, Keys, Unreadable, new_key, read_keys
from gatepost.blobs.known import KeyRefused, admit, check_named, in_force, known_keys
from gatepost.blobs.sql import SCHEMA
from gatepost.db.unit import Statement, Step, Unit
from tests.blobs import gcm
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

NOW = Instant(1_795_420_800_000_000)
ONE, TWO = (Key(letter * 32) for letter in (b"1", b"2"))
KEY_OF_SMTPD = b"6f70656e736d7470642d71756575656b"
# The first published test case with a text for AES-256 (McGrew and Viega, "The Galois/Counter Mode", case 14).
ZEROS = ("cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919")


def test_our_own_gcm_is_that_of_its_authors() -> None:
    ciphertext, tag = map(bytes.fromhex, ZEROS)
    assert gcm.decrypt(bytes(32), bytes(12), ciphertext, tag) == bytes(16)


@pytest.mark.row("MT-02")
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 5000])
@pytest.mark.parametrize("way", ["seal", "seal_alike", "sealing"])
def test_a_frame_is_version_iv_text_and_tag_under_the_characters_of_the_key(
    size: int, way: str, tmp_path: Path
) -> None:
    text = random.Random(size).randbytes(size)
    characters = b"0123456789abcdef0123456789abcdef"
    key = Key(characters)
    if way == "sealing":
        with (tmp_path / "frame").open("wb") as file:
            writing = key.sealing(file)
            for at in range(0, size, 1000):
                writing.write(text[at : at + 1000])
            writing.finish()
        frame = (tmp_path / "frame").read_bytes()
    else:
        frame = key.seal(text) if way == "seal" else key.seal_alike(text)
    version, iv, ciphertext, tag = frame[:1], frame[1:13], frame[13:-16], frame[-16:]
    assert version == b"\x01"
    assert (
        gcm.decrypt(characters, iv, ciphertext, tag) == text
    )  # not bytes.fromhex(characters), which has 16 octets
    assert key.open(frame) == text
    assert (key.seal(text) == key.seal(text)) is False
    assert key.seal_alike(text) == key.seal_alike(text)


@pytest.mark.row("MT-02")
def test_files_of_an_encrypted_queue_of_opensmtpd_open() -> None:
    lines = (Path(__file__).parent / "opensmtpd_queue.txt").read_text().split("\n")
    key, frames = Key(KEY_OF_SMTPD), [""]
    for line in lines:
        if line.startswith("  "):
            frames[-1] += line.strip()
        elif not line.startswith("#"):
            frames.append("")
    envelope, message = (bytes.fromhex(frame) for frame in frames if frame)
    assert b"\nsender: ann@sender.example\nrcpt: bob@here.example\n" in key.open(envelope)
    assert key.open(message).endswith(b"\n\nThis lies in OpenSMTPD's queue.\n")
    assert gcm.decrypt(KEY_OF_SMTPD, message[1:13], message[13:-16], message[-16:]) == key.open(message)


def test_a_frame_with_any_bit_changed_or_octet_missing_does_not_open() -> None:
    frame = ONE.seal(b"some text")
    for at in range(len(frame) * 8):
        octets = bytearray(frame)
        octets[at // 8] ^= 1 << at % 8
        with pytest.raises(Unreadable):
            ONE.open(bytes(octets))
    for length in range(len(frame)):
        with pytest.raises(Unreadable):
            ONE.open(frame[:length])


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    frame = ONE.seal(b"text")
    assert Keys((TWO, ONE)).opened(frame) == (ONE, b"text")
    assert Keys((TWO, ONE)).first is TWO
    with pytest.raises(Unreadable):
        Keys((TWO,)).open(frame)


def key_file(folder: Path, octets: bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(octets)
    path.chmod(mode)
    return path


@pytest.mark.row("MT-03")
def test_a_made_key_is_32_characters_and_a_key_file_holds_several(tmp_path: Path) -> None:
    one, two = new_key(), new_key()
    assert len(one) == 32
    assert one != two
    keys = read_keys(key_file(tmp_path, f"# the new one\n{one}\n\n{two}".encode()))
    assert keys.names == (Key(one.encode()).name, Key(two.encode()).name)
    assert keys.first is not None
    assert keys.first.name == keys.names[0]


@pytest.mark.row("MT-02")
@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "there is no key in it"),
        (b"# nothing\n", "there is no key in it"),
        (b"a" * 31, "keys:1: a key is exactly 32 characters, this one has 31"),
        (b"a" * 32 + b"\n" + b"b" * 33 + b"\n", "keys:2: a key is exactly 32 characters, this one has 33"),
        (b"a" * 32 + b" \n", "keys:1: .* has 33: write one key a line, without blanks"),
        (b"a" * 32 + b"\n" + b"a" * 32, "keys:2: this key stands there twice"),
        (b"\n".join(b"%032d" % n for n in range(KEYS_MAX + 1)), "more than 16 keys"),
        (b"x" * 100_000, "this is no key file"),
    ],
)
def test_a_bad_key_file_is_named_with_line_and_remedy(tmp_path: Path, octets: bytes, said: str) -> None:
    with pytest.raises(BadKeyFile, match=said) as refused:
        read_keys(key_file(tmp_path, octets))
    assert "aaaa" not in str(refused.value)  # never the key itself


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BadKeyFile, match="chmod 600"):
        read_keys(key_file(tmp_path, b"a" * 32, mode))


def test_a_missing_key_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadKeyFile, match=f"gatepost queue key new -o {tmp_path}/none"):
        read_keys(tmp_path / "none")
    with pytest.raises(BadKeyFile, match="cannot be read"):
        read_keys(key_file(tmp_path, b"") / "below")


@pytest.mark.row("MT-02")
@each_engine
def test_a_database_is_not_opened_without_all_keys_that_it_knows(open_db: OpenDatabase) -> None:
    async def scene() -> None:
        async with open_db((SCHEMA,)) as database:
            await admit(database, NO_KEYS, NOW)
            assert (await in_force(database, Keys((ONE,)))).first is None  # the server does not encrypt yet
            await admit(database, Keys((ONE,)), NOW)
            await admit(database, Keys((ONE,)), Instant(NOW + 1))
            for wrong, said in ((Keys((TWO,)), "which is not in the key file"), (NO_KEYS, "no key file is set")):
                with pytest.raises(KeyRefused, match=f"{ONE.name}.*{said}"):
                    await admit(database, wrong, NOW)
            assert list(await known_keys(database)) == [ONE.name]
            assert (await in_force(database, Keys((TWO, ONE)))).first is ONE  # until a server knows the other
            await admit(database, Keys((TWO, ONE)), Instant(NOW + 2))
            assert list(await known_keys(database)) == [ONE.name, TWO.name]
            assert (await in_force(database, Keys((TWO, ONE)))).first is TWO
            assert (await in_force(database, NO_KEYS)).first is None

    run(scene())


def test_a_proof_that_is_damaged_is_no_proof() -> None:
    spoil = Statement("t.spoil", "UPDATE rest_key SET proof = CAST('x' AS BLOB)")

    async def scene() -> None:
        async with open_sqlite((SCHEMA, type(SCHEMA)("t", (), (spoil,)))) as database:
            await admit(database, Keys((ONE,)), NOW)
            await database.commit(Unit((Step(spoil, {}),)))
            with pytest.raises(KeyRefused, match="damaged"):
                await admit(database, Keys((ONE,)), NOW)

    run(scene())


def test_a_file_that_is_no_database_knows_no_keys(tmp_path: Path) -> None:
    check_named(NO_KEYS, tmp_path / "none")
    (tmp_path / "mail.db").write_bytes(b"no database" * 500)
    check_named(NO_KEYS, tmp_path / "mail.db")
