-- What the operator has paused: a destination by its lane, or all with the lane '*'. Mail of a paused lane that falls
-- due is parked: its `due` is the last but one moment there is (queue/sql.py, PARKED).
CREATE TABLE queue_pause (
    lane TEXT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    why TEXT NOT NULL
){CLUSTERED};

-- Which destinations a worker leaves alone, until when, and what they said; only for people to read.
CREATE TABLE queue_rest (
    lane TEXT NOT NULL PRIMARY KEY,
    until BIGINT NOT NULL,
    answer TEXT NOT NULL
){CLUSTERED};
