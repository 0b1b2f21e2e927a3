-- Scans, the newest last. `head` is what lists show, `report` the whole as gzip of JSON. Unlike requests they are observations and are
-- dropped when they are old.

-- +goose Up
CREATE TABLE scans (
    seq    INTEGER PRIMARY KEY,
    id     TEXT   NOT NULL UNIQUE,
    at     BIGINT NOT NULL,
    head   TEXT   NOT NULL,
    report BLOB   NOT NULL
);
CREATE INDEX scans_by_time ON scans (at);
