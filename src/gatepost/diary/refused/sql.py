"""The tables of refusals, in the gate's database: losing a second of them in a crash harms nobody."""

from typing import Final

from gatepost.db.migrate import load_schema
from gatepost.db.unit import Schema, Statement

ADD_COUNT: Final = Statement(
    "refused.add_count",
    "INSERT INTO refusal (minute, net, reason, count) VALUES (:minute, :net, :reason, :count)"
    " ON CONFLICT (minute, net, reason) DO UPDATE SET count = refusal.count + excluded.count",
)
ADD_STORY: Final = Statement(
    "refused.add_story",
    "INSERT INTO refused_story (id, sender, recipient, packed) VALUES (:id, :sender, :recipient, :packed)",
)
STORY: Final = Statement("refused.story", "SELECT id, packed FROM refused_story WHERE id = :id")
BY_ADDRESS: Final = Statement(
    "refused.by_address",
    "SELECT id, packed FROM refused_story WHERE id IN ("
    " SELECT s.id FROM refused_story AS s WHERE s.sender = :address"
    " UNION SELECT r.id FROM refused_story AS r WHERE r.recipient = :address)"
    " ORDER BY id DESC LIMIT :most",
)
COUNTS: Final = Statement(
    "refused.counts",
    "SELECT minute, net, reason, count FROM refusal WHERE minute >= :since"
    " ORDER BY minute, net, reason LIMIT :most",
)
BY_REASON: Final = Statement(
    "refused.by_reason",
    "SELECT reason, SUM(count) FROM refusal WHERE minute >= :since GROUP BY reason ORDER BY reason",
)
DROP_COUNTS: Final = Statement("refused.drop_counts", "DELETE FROM refusal WHERE minute < :before")
DROP_STORIES: Final = Statement("refused.drop_stories", "DELETE FROM refused_story WHERE id < :before")
EDGE: Final = Statement("refused.edge", "SELECT id FROM refused_story ORDER BY id DESC LIMIT 1 OFFSET :most")

STATEMENTS: Final = (
    ADD_COUNT,
    ADD_STORY,
    STORY,
    BY_ADDRESS,
    COUNTS,
    BY_REASON,
    DROP_COUNTS,
    DROP_STORIES,
    EDGE,
)
SCHEMA: Final[Schema] = load_schema("refused", __package__, STATEMENTS)
