DROP TABLE deferred_schema;
DROP TABLE deferred_paused_queues;
DROP TABLE deferred_tasks;
