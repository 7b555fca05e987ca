DROP TABLE deferred_schema;
DROP TABLE deferred_queues;
DROP TABLE deferred_tasks;
