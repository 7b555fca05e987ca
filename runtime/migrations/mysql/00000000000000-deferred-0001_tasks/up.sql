-- Calls of durable tasks that wait, run, or have ended otherwise than well: those that succeeded are
-- deleted. guide/src/durable-table.md has what each column and state means.
-- Times are milliseconds since 1970 by the clock of the database.
CREATE TABLE deferred_tasks (
    id BINARY(16) NOT NULL PRIMARY KEY,
    task VARCHAR(255) NOT NULL,
    queue VARCHAR(255) NOT NULL,
    -- A JSON object of named arguments.
    payload MEDIUMTEXT NOT NULL,
    -- What runs first: the lower number.
    priority SMALLINT NOT NULL DEFAULT 0,
    -- ready: due; blocked: due, behind another one of its task_key; scheduled: due at run_at_ms;
    -- running: leased by a worker; unknown: no program that met it can read it, and it is offered
    -- again from run_at_ms on; dead: given up; cancelled; done: ended well, where that is kept.
    state VARCHAR(9) NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'blocked', 'scheduled', 'running', 'unknown', 'dead', 'cancelled', 'done')),
    run_at_ms BIGINT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    -- How many of the attempts asked to be run again: they do not count.
    snoozes INTEGER NOT NULL DEFAULT 0 CHECK (snoozes >= 0),
    max_attempts INTEGER NOT NULL,
    -- What it is about: tasks of one key run one after the other, in the order of their ids.
    task_key VARCHAR(255),
    -- Until it is started, no other row of its task that waits has this one.
    unique_key VARCHAR(255),
    -- Whether it takes the place of a row with its unique_key.
    replaces BOOLEAN NOT NULL DEFAULT FALSE,
    -- A key that it had, or held, when it was cancelled or replaced: a worker looks who waits behind it.
    freed_key VARCHAR(255),
    -- There are no partial indexes here: columns that are NULL in most rows stand in for them.
    -- Its task_key while it runs: no two rows have the same.
    running_key VARCHAR(255) GENERATED ALWAYS AS (CASE WHEN state = 'running' THEN task_key END) VIRTUAL,
    -- Its task_key while it keeps the others of the key waiting.
    held_key VARCHAR(255) GENERATED ALWAYS AS (CASE WHEN state IN ('ready', 'running') OR (state = 'scheduled' AND attempts > 0) THEN task_key END) VIRTUAL,
    -- Its task_key while it waits behind another one.
    blocked_key VARCHAR(255) GENERATED ALWAYS AS (CASE WHEN state = 'blocked' THEN task_key END) VIRTUAL,
    -- Its unique_key until it is started.
    waiting_unique_key VARCHAR(255) GENERATED ALWAYS AS (CASE WHEN attempts = 0 AND state IN ('ready', 'blocked', 'scheduled', 'unknown') THEN unique_key END) VIRTUAL,
    -- What the call was a part of: the `traceparent` of the W3C.
    trace_parent VARCHAR(55),
    -- Who runs it, and until when nobody else does.
    worker BINARY(16),
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
    INDEX deferred_tasks_ready (state, queue, priority, run_at_ms, id),
    INDEX deferred_tasks_due (state, run_at_ms),
    INDEX deferred_tasks_lease (state, lease_until_ms),
    INDEX deferred_tasks_ended (state, ended_at_ms),
    INDEX deferred_tasks_held_key (held_key, id),
    INDEX deferred_tasks_blocked_key (blocked_key, id),
    INDEX deferred_tasks_freed_key (freed_key),
    INDEX deferred_tasks_unknown (state, task, run_at_ms),
    INDEX deferred_tasks_refused (state, refused_at_ms),
    UNIQUE INDEX deferred_tasks_unique (task, waiting_unique_key),
    UNIQUE INDEX deferred_tasks_running_key (running_key)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The queues that nothing is taken of.
CREATE TABLE deferred_paused_queues (
    queue VARCHAR(255) NOT NULL PRIMARY KEY
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row: which migration these tables are of. A worker that knows less stops.
CREATE TABLE deferred_schema (
    version INTEGER NOT NULL
) ENGINE = InnoDB;
INSERT INTO deferred_schema (version) VALUES (2);
