-- Calls of durable tasks that wait, run, or have ended otherwise than well: those that succeeded are
-- deleted. guide/src/durable-table.md has what each column and state means.
-- Times are milliseconds since 1970 by the clock of the database. Texts of indexes are compared byte by
-- byte: that is faster than by a locale, and an update of the locale's rules leaves the indexes right.
CREATE TABLE deferred_tasks (
    id uuid PRIMARY KEY,
    task text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    -- A JSON object of named arguments. Not jsonb, which cannot hold the character NUL.
    payload text NOT NULL,
    -- What runs first: the lower number.
    priority smallint NOT NULL DEFAULT 0,
    -- ready: due; blocked: due, behind another one of its task_key; scheduled: due at run_at_ms;
    -- running: leased by a worker; unknown: no program that met it can read it, and it is offered
    -- again from run_at_ms on; dead: given up; cancelled; done: ended well, where that is kept.
    state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'blocked', 'scheduled', 'running', 'unknown', 'dead', 'cancelled', 'done')),
    run_at_ms bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    -- How many of the attempts asked to be run again: they do not count.
    snoozes integer NOT NULL DEFAULT 0 CHECK (snoozes >= 0),
    max_attempts integer NOT NULL,
    -- What it is about: tasks of one key run one after the other, in the order of their ids.
    task_key text COLLATE "C",
    -- Until it is started, no other row of its task that waits has this one.
    unique_key text COLLATE "C",
    -- A key that it had when it was cancelled or replaced: a worker looks who waits behind it.
    freed_key text COLLATE "C",
    -- A later call of its key ran when it was blocked: it is next, before those behind that one.
    overtaken boolean NOT NULL DEFAULT false,
    -- Whether it takes the place of a row with its unique_key.
    replaces boolean NOT NULL DEFAULT false,
    -- What the call was a part of: the `traceparent` of the W3C.
    trace_parent text,
    -- Who runs it, and until when nobody else does.
    worker uuid,
    lease_until_ms bigint,
    cancel_requested boolean NOT NULL DEFAULT false,
    -- Of the last attempt that failed.
    error text,
    enqueued_at_ms bigint NOT NULL,
    -- When the last attempt began.
    started_at_ms bigint,
    ended_at_ms bigint,
    -- How often, and since when, programs gave it back that cannot read it.
    refusals integer NOT NULL DEFAULT 0,
    refused_at_ms bigint,
    -- Or it would run for ever.
    CHECK (state <> 'running' OR lease_until_ms IS NOT NULL)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE INDEX deferred_tasks_ready ON deferred_tasks (queue, priority, run_at_ms, id) WHERE state = 'ready';
CREATE INDEX deferred_tasks_scheduled ON deferred_tasks (run_at_ms) WHERE state = 'scheduled';
CREATE INDEX deferred_tasks_running ON deferred_tasks (lease_until_ms) WHERE state = 'running';
CREATE INDEX deferred_tasks_ended ON deferred_tasks (ended_at_ms) WHERE state IN ('dead', 'cancelled');
CREATE INDEX deferred_tasks_done ON deferred_tasks (ended_at_ms) WHERE state = 'done';
CREATE INDEX deferred_tasks_dead ON deferred_tasks (task) WHERE state = 'dead';
CREATE INDEX deferred_tasks_unknown ON deferred_tasks (task, run_at_ms) WHERE state = 'unknown';
CREATE INDEX deferred_tasks_refused ON deferred_tasks (refused_at_ms) WHERE state = 'unknown';
-- Those that keep the later ones of their key waiting, and those that wait for others.
CREATE INDEX deferred_tasks_waiting_key ON deferred_tasks (task_key, id)
    WHERE task_key IS NOT NULL AND (state = 'ready' OR (state = 'scheduled' AND attempts > 0));
CREATE INDEX deferred_tasks_blocked_key ON deferred_tasks (task_key, overtaken, id) WHERE state = 'blocked';
CREATE INDEX deferred_tasks_freed_key ON deferred_tasks (freed_key) WHERE freed_key IS NOT NULL;
-- Of one key only one runs.
CREATE UNIQUE INDEX deferred_tasks_running_key ON deferred_tasks (task_key) WHERE state = 'running' AND task_key IS NOT NULL;
CREATE UNIQUE INDEX deferred_tasks_unique ON deferred_tasks (task, unique_key)
    WHERE unique_key IS NOT NULL AND attempts = 0 AND state IN ('ready', 'blocked', 'scheduled', 'unknown');

-- The queues that nothing is taken of.
CREATE TABLE deferred_paused_queues (
    queue text COLLATE "C" PRIMARY KEY
);

-- One row: which migration these tables are of. A worker that knows less stops.
CREATE TABLE deferred_schema (
    version integer NOT NULL
);
INSERT INTO deferred_schema (version) VALUES (2);
