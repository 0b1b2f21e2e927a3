-- The state of one installation. Instants are BIGINT nanoseconds since 1970 in UTC (1678 to 2262), NULL for none. `doc` is the whole
-- thing as JSON; the columns beside it repeat what is searched or constrained, are written by the same statement, and are compared
-- with it on every read. Names of people and resource ids are folded to one case in the columns that compare them.
--
-- Only this folder knows the dialect; PostgreSQL gets one of its own beside it.

-- +goose Up
CREATE TABLE installation (
    id        BIGINT PRIMARY KEY CHECK (id = 1),
    origin    TEXT   NOT NULL, -- the name of the audit log
    epoch     TEXT   NOT NULL, -- random; changes when a restored database is accepted
    commits   BIGINT NOT NULL, -- write transactions so far
    log_size  BIGINT NOT NULL
);

CREATE TABLE request_moves (
    old_state TEXT NOT NULL,
    new_state TEXT NOT NULL,
    PRIMARY KEY (old_state, new_state)
);
INSERT INTO request_moves (old_state, new_state) VALUES
    ('pending', 'approved'), ('pending', 'denied'), ('pending', 'cancelled'), ('pending', 'expired');

CREATE TABLE grant_moves (
    old_state TEXT NOT NULL,
    new_state TEXT NOT NULL,
    PRIMARY KEY (old_state, new_state)
);
INSERT INTO grant_moves (old_state, new_state) VALUES
    ('scheduled', 'activating'), ('scheduled', 'closing'), ('scheduled', 'closed'), ('scheduled', 'revoked'),
    ('scheduled', 'activation_failed'),
    ('activating', 'active'), ('activating', 'activation_failed'), ('activating', 'closing'), ('activating', 'closed'),
    ('activating', 'revoked'),
    ('active', 'closing'),
    ('closing', 'ended'), ('closing', 'closed'), ('closing', 'revoked'), ('closing', 'close_failed'),
    ('close_failed', 'closing');

CREATE TABLE requests (
    seq           INTEGER PRIMARY KEY, -- order of insertion, which a clock that goes back does not disturb
    id            TEXT   NOT NULL UNIQUE,
    requester_key TEXT   NOT NULL,
    state         TEXT   NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'cancelled', 'expired')),
    expires_at    BIGINT,
    version       BIGINT NOT NULL,
    doc           TEXT   NOT NULL
);
CREATE INDEX requests_by_state ON requests (state, expires_at);
CREATE INDEX requests_by_requester ON requests (requester_key, seq);

CREATE TABLE request_vms (
    vm_key      TEXT   NOT NULL,
    request_seq BIGINT NOT NULL REFERENCES requests (seq),
    PRIMARY KEY (vm_key, request_seq)
) WITHOUT ROWID;
CREATE INDEX request_vms_by_request ON request_vms (request_seq);

CREATE TABLE grants (
    seq           INTEGER PRIMARY KEY,
    id            TEXT   NOT NULL UNIQUE,
    request_id    TEXT   NOT NULL,
    requester_key TEXT   NOT NULL,
    vm_key        TEXT   NOT NULL,
    state         TEXT   NOT NULL CHECK (state IN ('scheduled', 'activating', 'active', 'closing', 'close_failed', 'ended', 'closed',
                                                   'revoked', 'activation_failed')),
    not_before    BIGINT,
    ends_at       BIGINT,
    version       BIGINT NOT NULL,
    doc           TEXT   NOT NULL
);
CREATE INDEX grants_by_end ON grants (state, ends_at);
CREATE INDEX grants_by_start ON grants (state, not_before);
CREATE INDEX grants_by_state ON grants (state, seq);
CREATE INDEX grants_by_requester ON grants (requester_key, seq);
CREATE INDEX grants_by_vm ON grants (vm_key, seq);
CREATE INDEX grants_by_request ON grants (request_id, seq);

CREATE TABLE grant_places (
    place_key TEXT   NOT NULL,
    grant_seq BIGINT NOT NULL REFERENCES grants (seq),
    PRIMARY KEY (place_key, grant_seq)
) WITHOUT ROWID;
CREATE INDEX grant_places_by_grant ON grant_places (grant_seq);

CREATE TABLE protections (
    vm_key  TEXT   NOT NULL PRIMARY KEY,
    state   TEXT   NOT NULL CHECK (state IN ('on', 'pending', 'failed', 'removing', 'off')),
    version BIGINT NOT NULL,
    doc     TEXT   NOT NULL
);

CREATE TABLE protection_places (
    place_key TEXT NOT NULL,
    vm_key    TEXT NOT NULL REFERENCES protections (vm_key),
    PRIMARY KEY (place_key, vm_key)
) WITHOUT ROWID;
CREATE INDEX protection_places_by_vm ON protection_places (vm_key);

CREATE TABLE log (
    idx        INTEGER PRIMARY KEY,
    at         BIGINT NOT NULL,
    actor_key  TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    object_key TEXT   NOT NULL,
    vm_key     TEXT   NOT NULL,
    record     BLOB   NOT NULL
);
CREATE INDEX log_by_time ON log (at, idx);
CREATE INDEX log_by_actor ON log (actor_key, idx);
CREATE INDEX log_by_action ON log (action, idx);
CREATE INDEX log_by_object ON log (object_key, idx);
CREATE INDEX log_by_vm ON log (vm_key, idx);

CREATE TABLE log_hashes (
    idx  INTEGER PRIMARY KEY,
    hash BLOB   NOT NULL CHECK (length(hash) = 32)
);

CREATE TABLE idempotency (
    caller    TEXT   NOT NULL,
    key       TEXT   NOT NULL,
    body_hash TEXT   NOT NULL,
    object_id TEXT   NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- A move that the table does not name is refused here as well, whoever asks for it.
-- +goose StatementBegin
CREATE TRIGGER request_moves_only BEFORE UPDATE OF state ON requests
WHEN OLD.state <> NEW.state AND NOT EXISTS (SELECT 1 FROM request_moves WHERE old_state = OLD.state AND new_state = NEW.state)
BEGIN
    SELECT RAISE(ABORT, 'forbidden move of a request');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER grant_moves_only BEFORE UPDATE OF state ON grants
WHEN OLD.state <> NEW.state AND NOT EXISTS (SELECT 1 FROM grant_moves WHERE old_state = OLD.state AND new_state = NEW.state)
BEGIN
    SELECT RAISE(ABORT, 'forbidden move of a grant');
END;
-- +goose StatementEnd

-- Requests and grants are the history of who had access: they are never removed. The log is only ever added to.
-- +goose StatementBegin
CREATE TRIGGER requests_stay BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'requests are never removed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER grants_stay BEFORE DELETE ON grants BEGIN SELECT RAISE(ABORT, 'grants are never removed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_stays BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_unchanged BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_hashes_stay BEFORE DELETE ON log_hashes BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER log_hashes_unchanged BEFORE UPDATE ON log_hashes BEGIN SELECT RAISE(ABORT, 'the log is only added to'); END;
-- +goose StatementEnd
