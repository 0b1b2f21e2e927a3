-- Small documents by kind and id (sessions, tokens, delegations, …), and the outbox of notices. Both come and go: what must be kept of
-- them stands in the log.

-- +goose Up
CREATE TABLE records (
    seq        INTEGER PRIMARY KEY,
    kind       TEXT   NOT NULL,
    id         TEXT   NOT NULL,
    owner_key  TEXT   NOT NULL,
    expires_at BIGINT,
    version    BIGINT NOT NULL,
    doc        TEXT   NOT NULL,
    UNIQUE (kind, id)
);
CREATE INDEX records_by_owner ON records (kind, owner_key, seq);
CREATE INDEX records_by_expiry ON records (expires_at);

CREATE TABLE notices (
    seq     INTEGER PRIMARY KEY, -- the order in which they are told
    id      TEXT   NOT NULL UNIQUE,
    channel TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    state   TEXT   NOT NULL CHECK (state IN ('waiting', 'sent', 'dead')),
    next_at BIGINT,
    sent_at BIGINT,
    version BIGINT NOT NULL,
    doc     TEXT   NOT NULL
);
CREATE INDEX notices_due ON notices (state, next_at, seq);
CREATE INDEX notices_of_channel ON notices (channel, state, next_at, seq);
CREATE INDEX notices_in_order ON notices (state, channel, subject, seq);
CREATE INDEX notices_by_subject ON notices (subject, seq);
