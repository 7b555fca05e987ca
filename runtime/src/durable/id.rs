//! The identity of a durable call.
//!
//! Must not know: the table.

use std::fmt;
use std::str::FromStr;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Binary;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of a durable call, known as soon as it is registered: a UUIDv7.
///
/// It is a value for columns of the type `Uuid` on PostgreSQL, and of the type `Binary` (16 bytes)
/// on any database, so that it can be stored with what the task is about. Ids of one process are in
/// the order in which they were made.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, AsExpression, FromSqlRow,
)]
#[serde(transparent)]
#[diesel(sql_type = SqlTaskId)]
#[diesel(sql_type = Binary)]
#[cfg_attr(any(feature = "postgres", feature = "async-postgres"), diesel(sql_type = diesel::sql_types::Uuid))]
pub struct TaskId(Uuid);

/// The SQL type of the column `id`: `uuid` on PostgreSQL, 16 bytes elsewhere.
#[derive(Debug, Clone, Copy, Default, diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
#[diesel(postgres_type(oid = 2950, array_oid = 2951))]
#[diesel(mysql_type(name = "Blob"))]
#[diesel(sqlite_type(name = "Binary"))]
pub struct SqlTaskId;

impl TaskId {
    /// A new one, greater than all that this process made before.
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// As a UUID.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl From<Uuid> for TaskId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl From<TaskId> for Uuid {
    fn from(id: TaskId) -> Self {
        id.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TaskId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

macro_rules! as_bytes {
    ($($(#[$attribute:meta])* [$($db:ident)?] $sql_type:ty, $backend:ty;)*) => {$(
        $(#[$attribute])*
        impl $(<$db: Backend>)? ToSql<$sql_type, $backend> for TaskId
        where
            [u8]: ToSql<Binary, $backend>,
        {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, $backend>) -> serialize::Result {
                <[u8] as ToSql<Binary, $backend>>::to_sql(self.0.as_bytes(), out)
            }
        }

        $(#[$attribute])*
        impl $(<$db: Backend>)? FromSql<$sql_type, $backend> for TaskId
        where
            Vec<u8>: FromSql<Binary, $backend>,
        {
            fn from_sql(bytes: <$backend as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
                let bytes = <Vec<u8> as FromSql<Binary, $backend>>::from_sql(bytes)?;
                Ok(Self(Uuid::from_slice(&bytes)?))
            }
        }
    )*};
}

as_bytes! {
    [DB] SqlTaskId, DB;
    [DB] Binary, DB;
    #[cfg(any(feature = "postgres", feature = "async-postgres"))]
    [] diesel::sql_types::Uuid, diesel::pg::Pg;
}
