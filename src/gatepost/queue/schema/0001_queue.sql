-- One row a mail that waits; `packed` is the envelope (queue/model.py). Exactly as many uses of the body as rows of
-- queue_rcpt are held by it.
CREATE TABLE queue_mail (
    id {ID},
    body BIGINT NOT NULL,
    created BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    recipients BIGINT NOT NULL,
    touched BIGINT NOT NULL,
    sender TEXT NOT NULL,
    packed {OCTETS} NOT NULL
);

-- One row a recipient. owner 0: nobody has it, it is tried at `due`. Otherwise `owner` is at work on it and `due` is
-- when the lease ends: who crashed is found by the same query as who is due.
-- state: 0 waiting, 1 held by the operator (due is far away).
CREATE TABLE queue_rcpt (
    mail BIGINT NOT NULL,
    position BIGINT NOT NULL,
    state BIGINT NOT NULL,
    owner BIGINT NOT NULL,
    due BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    suspect BIGINT NOT NULL,
    warned BIGINT NOT NULL,
    last_try BIGINT NOT NULL,
    lane TEXT NOT NULL,
    recipient TEXT NOT NULL,
    last_error TEXT NOT NULL,
    packed {OCTETS} NOT NULL,
    PRIMARY KEY (mail, position)
){CLUSTERED};

-- What is due, whatever its lane; and what is due in one lane.
CREATE INDEX queue_rcpt_due ON queue_rcpt (due, lane);
CREATE INDEX queue_rcpt_lane ON queue_rcpt (lane, due);
