"""The tables of accepted mails: story, story_party, story_line. Sweeps go by id, which is by time."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

ADD_STORY: Final = Statement(
    "diary.add_story",
    "INSERT INTO story (id, sender, recipient, packed) VALUES (:id, :sender, :recipient, :packed)",
)
ADD_PARTY: Final = Statement(
    "diary.add_party",
    "INSERT INTO story_party (address, id) VALUES (:address, :id) ON CONFLICT (address, id) DO NOTHING",
)
ADD_LINE: Final = Statement("diary.add_line", "INSERT INTO story_line (id, at, packed) VALUES (:id, :at, :packed)")

STORY: Final = Statement("diary.story", "SELECT id, packed FROM story WHERE id = :id")
LINES: Final = Statement("diary.lines", "SELECT at, packed FROM story_line WHERE id = :id ORDER BY at LIMIT 1000")
BY_ADDRESS: Final = Statement(
    "diary.by_address",
    "SELECT id, packed FROM story WHERE id IN ("
    " SELECT s.id FROM story AS s WHERE s.sender = :address"
    " UNION SELECT r.id FROM story AS r WHERE r.recipient = :address"
    " UNION SELECT p.id FROM story_party AS p WHERE p.address = :address)"
    " ORDER BY id DESC LIMIT :most",
)
NEWEST: Final = Statement("diary.newest", "SELECT id, packed FROM story ORDER BY id DESC LIMIT :most")

COUNT: Final = Statement("diary.count", "SELECT COUNT(*) FROM story")
EDGE: Final = Statement(
    "diary.edge",
    "SELECT id FROM story WHERE id < :before ORDER BY id LIMIT 1 OFFSET :skip",
)
LAST_OLD: Final = Statement("diary.last_old", "SELECT id FROM story WHERE id < :before ORDER BY id DESC LIMIT 1")
DROP_STORIES: Final = Statement(
    "diary.drop_stories", "DELETE FROM story WHERE id <= :upto RETURNING id", returns=True
)
DROP_PARTIES: Final = Statement("diary.drop_parties", "DELETE FROM story_party WHERE id <= :upto")
DROP_LINES: Final = Statement("diary.drop_lines", "DELETE FROM story_line WHERE id <= :upto")

STATEMENTS: Final = (
    ADD_STORY,
    ADD_PARTY,
    ADD_LINE,
    STORY,
    LINES,
    BY_ADDRESS,
    NEWEST,
    COUNT,
    EDGE,
    LAST_OLD,
    DROP_STORIES,
    DROP_PARTIES,
    DROP_LINES,
)
SCHEMA: Final[Schema] = load_schema("diary", __package__, STATEMENTS)
