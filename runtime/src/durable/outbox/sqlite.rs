//! The INSERT for SQLite.

use diesel::sqlite::Sqlite;

use super::{ON_CONFLICT, Outbox, TaskTable, values};
use crate::durable::clock;
use crate::durable::row::NewTask;
use crate::durable::sql::Sql;

impl Outbox<Sqlite> for TaskTable {
    type Statement<'c> = Sql<'c>;

    // SQLite takes 32,766 values, and a call has thirteen at most.
    const CALLS_IN_ONE_STATEMENT: usize = 2_500;

    fn insert(calls: &[NewTask]) -> Sql<'_> {
        let sql = values::insert(calls, clock::SQLITE_NOW_MS);
        if calls.iter().all(|call| call.unique_key.is_none()) {
            return sql;
        }
        sql.sql(ON_CONFLICT).sql(" WHERE excluded.replaces")
    }
}
