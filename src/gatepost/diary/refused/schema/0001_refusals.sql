CREATE TABLE refusal (
    minute BIGINT NOT NULL,
    net TEXT NOT NULL,
    reason TEXT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (minute, net, reason)
){CLUSTERED};
CREATE TABLE refused_story (
    id {ID},
    sender BIGINT NOT NULL,
    recipient BIGINT NOT NULL,
    packed {OCTETS} NOT NULL
);
CREATE INDEX refused_story_sender ON refused_story (sender, id);
CREATE INDEX refused_story_recipient ON refused_story (recipient, id);
