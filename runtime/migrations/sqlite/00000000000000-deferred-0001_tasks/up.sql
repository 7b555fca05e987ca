-- Calls of durable tasks that wait, run, or have ended otherwise than well: those that succeeded are
-- deleted. guide/src/durable-table.md has what each column and state means.
-- Times are milliseconds since 1970 by the clock of the database.
CREATE TABLE deferred_tasks (
    id BLOB PRIMARY KEY NOT NULL,
    task TEXT NOT NULL,
    queue TEXT NOT NULL,
    -- A JSON object of named arguments.
    payload TEXT NOT NULL,
    -- What runs first: the lower number.
    priority INTEGER NOT NULL DEFAULT 0,
    -- ready: due; blocked: due, behind another one of its task_key; scheduled: due at run_at_ms;
    -- running: leased by a worker; unknown: no program that met it can read it, and it is offered
    -- again from run_at_ms on; dead: given up; cancelled; done: ended well, where that is kept.
    state TEXT NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'blocked', 'scheduled', 'running', 'unknown', 'dead', 'cancelled', 'done')),
    run_at_ms BIGINT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    -- How many of the attempts asked to be run again: they do not count.
    snoozes INTEGER NOT NULL DEFAULT 0 CHECK (snoozes >= 0),
    max_attempts INTEGER NOT NULL,
    -- What it is about: tasks of one key run one after the other, in the order of their ids.
    task_key TEXT,
    -- Until it is started, no other row of its task that waits has this one.
    unique_key TEXT,
    -- A key that it had when it was cancelled or replaced: a worker looks who waits behind it.
    freed_key TEXT,
    -- Whether it takes the place of a row with its unique_key.
    replaces BOOLEAN NOT NULL DEFAULT FALSE,
    -- What the call was a part of: the `traceparent` of the W3C.
    trace_parent TEXT,
    -- Who runs it, and until when nobody else does.
    worker BLOB,
    lease_until_ms BIGINT,
    cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
    -- Of the last attempt that failed.
    error TEXT,
    enqueued_at_ms BIGINT NOT NULL,
    -- When the last attempt began.
    started_at_ms BIGINT,
    ended_at_ms BIGINT,
    -- How often, and since when, programs gave it back that cannot read it.
    refusals INTEGER NOT NULL DEFAULT 0,
    refused_at_ms BIGINT,
    -- Or it would run for ever.
    CHECK (state <> 'running' OR lease_until_ms IS NOT NULL),
    -- SQLite takes any value in any column otherwise.
    CHECK (typeof(id) = 'blob' AND length(id) = 16 AND typeof(priority) = 'integer' AND typeof(run_at_ms) = 'integer'
        AND typeof(attempts) = 'integer' AND typeof(snoozes) = 'integer' AND typeof(max_attempts) = 'integer')
) WITHOUT ROWID;

CREATE INDEX deferred_tasks_ready ON deferred_tasks (queue, priority, run_at_ms, id) WHERE state = 'ready';
CREATE INDEX deferred_tasks_scheduled ON deferred_tasks (run_at_ms) WHERE state = 'scheduled';
CREATE INDEX deferred_tasks_running ON deferred_tasks (lease_until_ms) WHERE state = 'running';
CREATE INDEX deferred_tasks_ended ON deferred_tasks (ended_at_ms) WHERE state IN ('dead', 'cancelled');
CREATE INDEX deferred_tasks_done ON deferred_tasks (ended_at_ms) WHERE state = 'done';
CREATE INDEX deferred_tasks_dead ON deferred_tasks (task) WHERE state = 'dead';
CREATE INDEX deferred_tasks_unknown ON deferred_tasks (task, run_at_ms) WHERE state = 'unknown';
CREATE INDEX deferred_tasks_refused ON deferred_tasks (refused_at_ms) WHERE state = 'unknown';
-- Those that keep the others of their key waiting, and the others.
CREATE INDEX deferred_tasks_held_key ON deferred_tasks (task_key, id)
    WHERE task_key IS NOT NULL AND (state IN ('ready', 'running') OR (state = 'scheduled' AND attempts > 0));
CREATE INDEX deferred_tasks_blocked_key ON deferred_tasks (task_key, id) WHERE state = 'blocked';
CREATE INDEX deferred_tasks_freed_key ON deferred_tasks (freed_key) WHERE freed_key IS NOT NULL;
-- Of one key only one runs.
CREATE UNIQUE INDEX deferred_tasks_running_key ON deferred_tasks (task_key) WHERE state = 'running' AND task_key IS NOT NULL;
CREATE UNIQUE INDEX deferred_tasks_unique ON deferred_tasks (task, unique_key)
    WHERE unique_key IS NOT NULL AND attempts = 0 AND state IN ('ready', 'blocked', 'scheduled', 'unknown');

-- The queues that nothing is taken of.
CREATE TABLE deferred_paused_queues (
    queue TEXT PRIMARY KEY NOT NULL
);

-- One row: which migration these tables are of. A worker that knows less stops.
CREATE TABLE deferred_schema (
    version INTEGER NOT NULL
);
INSERT INTO deferred_schema (version) VALUES (2);
