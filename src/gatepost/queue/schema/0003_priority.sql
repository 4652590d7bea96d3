-- Most urgent first within a lane: urgency is the priority of RFC 6710 with its sign turned, -9 before 0 before 9.
ALTER TABLE queue_rcpt ADD COLUMN urgency BIGINT NOT NULL DEFAULT 0;
DROP INDEX queue_rcpt_lane;
CREATE INDEX queue_rcpt_lane ON queue_rcpt (lane, urgency, due);
-- Whether anything waits that is not as urgent as the rest; empty where nobody asks for a priority.
CREATE INDEX queue_rcpt_wished ON queue_rcpt (urgency) WHERE urgency <> 0;
