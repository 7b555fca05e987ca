-- Calls of durable tasks that wait, run, or have ended otherwise than well: those that succeeded are deleted.
-- Times are milliseconds since 1970 by the clock of the database.
CREATE TABLE deferred_tasks (
    id BINARY(16) NOT NULL PRIMARY KEY,
    task VARCHAR(255) NOT NULL,
    queue VARCHAR(255) NOT NULL,
    -- A JSON object of named arguments.
    payload MEDIUMTEXT NOT NULL,
    -- What runs first: the lower number.
    priority SMALLINT NOT NULL DEFAULT 0,
    -- ready: due; scheduled: due at run_at_ms; running: leased by a worker; dead: given up; cancelled.
    state VARCHAR(9) NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'scheduled', 'running', 'dead', 'cancelled')),
    run_at_ms BIGINT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    -- How many of the attempts asked to be run again: they do not count.
    snoozes INTEGER NOT NULL DEFAULT 0 CHECK (snoozes >= 0),
    max_attempts INTEGER NOT NULL,
    -- What it is about: tasks of one key run one after the other, in the order of their ids.
    task_key VARCHAR(255),
    -- Until it is started, no other row of its task has this one.
    unique_key VARCHAR(255),
    -- Whether it takes the place of a row with its unique_key.
    replaces BOOLEAN NOT NULL DEFAULT FALSE,
    -- Its task_key while it runs: no two rows have the same. There are no partial indexes here.
    running_key VARCHAR(255) GENERATED ALWAYS AS (CASE WHEN state = 'running' THEN task_key END) VIRTUAL,
    -- Who runs it, and until when nobody else does.
    worker BINARY(16),
    lease_until_ms BIGINT,
    cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
    -- Of the last attempt that failed.
    error TEXT,
    enqueued_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT,
    -- Or it would run for ever.
    CHECK (state <> 'running' OR lease_until_ms IS NOT NULL),
    INDEX deferred_tasks_ready (state, queue, priority, run_at_ms, id),
    INDEX deferred_tasks_due (state, run_at_ms),
    INDEX deferred_tasks_lease (state, lease_until_ms),
    INDEX deferred_tasks_ended (state, ended_at_ms),
    INDEX deferred_tasks_key (task_key, id),
    UNIQUE INDEX deferred_tasks_unique (task, unique_key),
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
INSERT INTO deferred_schema (version) VALUES (1);
