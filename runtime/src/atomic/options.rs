//! What a transaction can be begun with, which backend has it, and the SQL for it.
//!
//! Must not know: connections' state, hooks.

use crate::sealed::Sealed;

/// How much of concurrent transactions a transaction may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IsolationLevel {
    /// As if transactions ran one after the other.
    Serializable,
    /// All queries see the state at the transaction's start.
    RepeatableRead,
    /// Each query sees what was committed when it started.
    ReadCommitted,
    /// Also what is not committed; on PostgreSQL the same as
    /// [`ReadCommitted`](Self::ReadCommitted).
    ReadUncommitted,
}

impl IsolationLevel {
    fn sql(self) -> &'static str {
        match self {
            Self::Serializable => "SERIALIZABLE",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::ReadCommitted => "READ COMMITTED",
            Self::ReadUncommitted => "READ UNCOMMITTED",
        }
    }
}

/// The options that belong to BEGIN.
#[derive(Debug, Clone, Copy, Default)]
pub struct BeginOptions {
    pub(crate) isolation: Option<IsolationLevel>,
    /// Where it is said at all: a database may have another default.
    pub(crate) read_only: Option<bool>,
    pub(crate) deferrable: Option<bool>,
    pub(crate) lock: Option<&'static str>,
}

impl BeginOptions {
    /// Whether a plain BEGIN will do.
    pub(crate) fn is_plain(&self) -> bool {
        self.isolation.is_none() && self.read_only.is_none() && self.deferrable.is_none() && self.lock.is_none()
    }

    /// The SQL standard's, PostgreSQL's and SQLite's form.
    pub(crate) fn standard_sql(&self) -> String {
        let mut sql = String::from("BEGIN");
        if let Some(lock) = self.lock {
            sql.extend([" ", lock]);
        }
        if let Some(level) = self.isolation {
            sql.extend([" ISOLATION LEVEL ", level.sql()]);
        }
        sql.push_str(self.read_mode());
        sql.push_str(match self.deferrable {
            Some(true) => " DEFERRABLE",
            Some(false) => " NOT DEFERRABLE",
            None => "",
        });
        sql
    }

    /// MySQL sets the level of the next transaction before it begins.
    #[cfg(any(feature = "mysql", feature = "async-mysql"))]
    pub(crate) fn mysql_sql(&self) -> String {
        let mut sql = String::new();
        if let Some(level) = self.isolation {
            sql.extend(["SET TRANSACTION ISOLATION LEVEL ", level.sql(), "; "]);
        }
        sql.push_str("START TRANSACTION");
        sql.push_str(self.read_mode());
        sql
    }

    fn read_mode(&self) -> &'static str {
        match self.read_only {
            Some(true) => " READ ONLY",
            Some(false) => " READ WRITE",
            None => "",
        }
    }
}

/// A capability trait with its implementations: for these connections, and for pooled ones.
macro_rules! capability {
    ($(#[$attribute:meta])* $trait:ident: $($feature:literal $conn:path),*) => {
        $(#[$attribute])*
        pub trait $trait: Sealed {}

        $(
            #[cfg(feature = $feature)]
            #[diagnostic::do_not_recommend]
            impl $trait for $conn {}
        )*

        #[cfg(feature = "async-sqlite")]
        #[diagnostic::do_not_recommend]
        impl<C: $trait, S> $trait for diesel_async::sync_connection_wrapper::SyncConnectionWrapper<C, S> {}

        #[cfg(feature = "async")]
        #[diagnostic::do_not_recommend]
        impl<C: $trait> $trait for &mut C {}

        #[cfg(feature = "bb8")]
        #[diagnostic::do_not_recommend]
        impl<M: bb8::ManageConnection<Connection: $trait>> $trait for bb8::PooledConnection<'_, M> {}

        #[cfg(feature = "deadpool")]
        #[diagnostic::do_not_recommend]
        impl<M: deadpool::managed::Manager<Type: $trait>> $trait for deadpool::managed::Object<M> {}

        #[cfg(feature = "mobc")]
        #[diagnostic::do_not_recommend]
        impl<M: mobc::Manager<Connection: $trait>> $trait for mobc::Connection<M> {}

        #[cfg(feature = "r2d2")]
        #[diagnostic::do_not_recommend]
        impl<M> $trait for diesel::r2d2::PooledConnection<M>
        where
            M: diesel::r2d2::ManageConnection,
            M::Connection: $trait,
        {
        }
    };
}

capability! {
    /// Connections whose transactions have an isolation level.
    #[diagnostic::on_unimplemented(
        message = "transactions on `{Self}` have no isolation level",
        label = "only PostgreSQL and MySQL/MariaDB have this option",
        note = "leave the option out: SQLite's transactions are always serializable"
    )]
    HasIsolation:
        "postgres" diesel::PgConnection, "async-postgres" diesel_async::AsyncPgConnection,
        "mysql" diesel::MysqlConnection, "async-mysql" diesel_async::AsyncMysqlConnection
}

capability! {
    /// Connections whose transactions can forbid writing.
    #[diagnostic::on_unimplemented(
        message = "transactions on `{Self}` cannot be read-only",
        label = "only PostgreSQL and MySQL/MariaDB have this option",
        note = "leave the option out; on SQLite `PRAGMA query_only` forbids writing"
    )]
    HasReadOnly:
        "postgres" diesel::PgConnection, "async-postgres" diesel_async::AsyncPgConnection,
        "mysql" diesel::MysqlConnection, "async-mysql" diesel_async::AsyncMysqlConnection
}

capability! {
    /// Connections whose transactions can wait for a snapshot on which they cannot fail.
    #[diagnostic::on_unimplemented(
        message = "transactions on `{Self}` cannot be deferrable",
        label = "only PostgreSQL has this option",
        note = "leave the option out"
    )]
    HasDeferrable: "postgres" diesel::PgConnection, "async-postgres" diesel_async::AsyncPgConnection
}

capability! {
    /// Connections whose transactions can take the write lock at their start.
    #[diagnostic::on_unimplemented(
        message = "transactions on `{Self}` cannot be immediate",
        label = "only SQLite has this option",
        note = "leave the option out: PostgreSQL and MySQL/MariaDB lock rows, not the database; `.for_update()` locks them early"
    )]
    HasImmediate: "sqlite" diesel::SqliteConnection
}

capability! {
    /// Connections whose transactions can lock everybody else out at their start.
    #[diagnostic::on_unimplemented(
        message = "transactions on `{Self}` cannot be exclusive",
        label = "only SQLite has this option",
        note = "leave the option out: PostgreSQL and MySQL/MariaDB lock rows, not the database; on PostgreSQL a `LOCK TABLE` in the block locks a table"
    )]
    HasExclusive: "sqlite" diesel::SqliteConnection
}

#[cfg(test)]
mod tests {
    use super::{BeginOptions, IsolationLevel};

    #[test]
    fn sql_names_each_option() {
        let options = BeginOptions {
            isolation: Some(IsolationLevel::Serializable),
            read_only: Some(true),
            deferrable: Some(true),
            lock: None,
        };
        assert_eq!(options.standard_sql(), "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE");
        let options = BeginOptions { read_only: Some(false), deferrable: Some(false), ..BeginOptions::default() };
        assert_eq!(options.standard_sql(), "BEGIN READ WRITE NOT DEFERRABLE");
        assert!(!options.is_plain());
        let options = BeginOptions { lock: Some("IMMEDIATE"), ..BeginOptions::default() };
        assert_eq!(options.standard_sql(), "BEGIN IMMEDIATE");
        assert!(!options.is_plain());
    }
}
