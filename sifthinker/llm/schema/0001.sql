-- The ledger of paid calls and the quotas, for all hosts that share this database. Times are seconds of the Unix epoch
-- by the server's clock.

CREATE TABLE calls (
    key text PRIMARY KEY,
    account text NOT NULL,
    state text NOT NULL CHECK (state IN ('reserved', 'ok', 'failed', 'dead')),
    owner text NOT NULL,
    at double precision NOT NULL,
    request bytea NOT NULL,
    reply bytea,
    finish_reason text,
    model text,
    kind text,
    detail text,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    cached_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    money double precision NOT NULL DEFAULT 0,
    seconds double precision NOT NULL DEFAULT 0
);
CREATE INDEX calls_reserved ON calls (owner) WHERE state = 'reserved';

CREATE TABLE owners (owner text PRIMARY KEY, beat double precision NOT NULL);

CREATE TABLE accounts (
    account text PRIMARY KEY,
    calls bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    money double precision NOT NULL
);
CREATE TABLE estimates (account text PRIMARY KEY, tokens bigint NOT NULL);

CREATE TABLE batches (
    id text PRIMARY KEY,
    account text NOT NULL,
    state text NOT NULL,
    keys bytea NOT NULL,
    at double precision NOT NULL
);

-- What the last minute of an account has used. After a crash of the server it starts anew, so nothing waits for its disk.
CREATE UNLOGGED TABLE quotas (
    name text PRIMARY KEY,
    next_request double precision NOT NULL DEFAULT 0, -- when the next one is in pace
    next_token double precision NOT NULL DEFAULT 0,
    paused_until double precision NOT NULL DEFAULT 0,
    pauser text NOT NULL DEFAULT '' -- the peer that was asked for the pause
);
CREATE UNLOGGED TABLE quota_parts (
    name text NOT NULL,
    part bigint NOT NULL, -- number of the part of a minute
    requests double precision NOT NULL,
    tokens double precision NOT NULL,
    PRIMARY KEY (name, part)
);
CREATE UNLOGGED TABLE peers (
    name text NOT NULL,
    peer text NOT NULL,
    beat double precision NOT NULL,
    PRIMARY KEY (name, peer)
);
