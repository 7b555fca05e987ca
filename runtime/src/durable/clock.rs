//! The time in milliseconds since 1970, as SQL. Always the database's: the clocks of those who
//! enqueue and of those who work may differ.

/// Of the statement, not of the transaction, which may have begun long ago.
#[cfg(any(feature = "postgres", feature = "async-postgres"))]
pub(crate) const POSTGRES_NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Not `unixepoch('subsec')`, which is newer than some systems' SQLite.
#[cfg(feature = "sqlite")]
pub(crate) const SQLITE_NOW_MS: &str = "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)";

/// Not `UNIX_TIMESTAMP(NOW())`, which is ambiguous in the hour in which summer time ends.
#[cfg(any(feature = "mysql", feature = "async-mysql"))]
pub(crate) const MYSQL_NOW_MS: &str = "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)";
