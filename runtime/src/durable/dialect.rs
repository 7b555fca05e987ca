//! What a statement of ours for any backend says differently on each.
//!
//! Must not know: which statements there are.

use super::clock;

/// A backend's own words.
pub(crate) trait Dialect {
    /// The time in milliseconds.
    const NOW_MS: &'static str;
    /// Behind the values of an INSERT: where there is such a row, it stays.
    const UNLESS_THERE: &'static str;
}

macro_rules! dialects {
    ($($(#[$attribute:meta])* $backend:ty => $now:ident, $unless_there:literal;)*) => {$(
        $(#[$attribute])*
        impl Dialect for $backend {
            const NOW_MS: &'static str = clock::$now;
            const UNLESS_THERE: &'static str = $unless_there;
        }
    )*};
}

dialects! {
    #[cfg(any(feature = "postgres", feature = "async-postgres"))]
    diesel::pg::Pg => POSTGRES_NOW_MS, " ON CONFLICT DO NOTHING";
    #[cfg(feature = "sqlite")]
    diesel::sqlite::Sqlite => SQLITE_NOW_MS, " ON CONFLICT DO NOTHING";
    // Not INSERT IGNORE, which ignores more than that.
    #[cfg(any(feature = "mysql", feature = "async-mysql"))]
    diesel::mysql::Mysql => MYSQL_NOW_MS, " ON DUPLICATE KEY UPDATE queue = queue";
}
