//! What only PostgreSQL has: COPY, LISTEN, its own types, rows one by one.

use std::io::Write;
use std::time::{Duration, Instant};

use diesel::connection::{DefaultLoadingMode, SimpleConnection};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{CopyFormat, Pg, PgRowByRowLoadingMode, PgValue};
use diesel::prelude::*;
use diesel::result::Error;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel_deferred::{DeferredConnection, atomic};
use diesel_deferred_tests::{Database, Log, Scratch, assert_clean, note, refusal, witness};

/// COPY FROM in a block, and COPY TO with `&mut **conn`.
#[test]
fn copy_from_and_to() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut db.connect();
    let log = Log::new();
    let copied = atomic!(conn, -> QueryResult<usize>, {
        note(&log, 1);
        diesel::copy_from(witness::table)
            .from_raw_data(witness::table, |out| {
                out.write_all(b"1\n2\n3\n").map_err(|error| Error::SerializationError(error.into()))
            })
            .with_format(CopyFormat::Csv)
            .execute(conn)
    });
    assert_eq!(copied, Ok(3));
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2, 3]));
    let rows: Vec<i32> = diesel::copy_to(witness::table)
        .load::<WitnessRow, _>(&mut **conn)
        .unwrap()
        .map(|row| row.unwrap().id)
        .collect();
    assert_eq!(rows, [1, 2, 3]);
    assert_clean(db, conn, &log);
}

/// A7: COPY FROM on a connection around a pooled one, and on one from a pool; an error in it is
/// found out.
#[test]
fn a07_copy_from_on_pooled_connections() {
    use diesel::r2d2::{ConnectionManager, Pool};

    let db = &Scratch::<PgConnection>::new();
    let rows = |text: &'static [u8]| {
        diesel::copy_from(witness::table)
            .from_raw_data(witness::table, move |out| {
                out.write_all(text).map_err(|error| Error::SerializationError(error.into()))
            })
            .with_format(CopyFormat::Csv)
    };
    let log = Log::new();
    let around = &mut DeferredConnection::new(
        Pool::builder().max_size(1).build(ConnectionManager::<PgConnection>::new(db.url())).unwrap().get().unwrap(),
    );
    let copied = atomic!(around, -> QueryResult<usize>, {
        note(&log, 1);
        rows(b"1\n2\n").execute(around)
    });
    assert_eq!((copied, log.ran()), (Ok(2), vec![1]));
    let swallowed = atomic!(around, -> QueryResult<()>, {
        assert!(rows(b"3\n1\n").execute(around).is_err());
        Ok(())
    });
    assert_eq!(refusal(&swallowed), "RolledBack");
    let manager = ConnectionManager::<DeferredConnection<PgConnection>>::new(db.url());
    let mut pooled = Pool::builder().max_size(1).build(manager).unwrap().get().unwrap();
    let copied = atomic!(pooled, -> QueryResult<usize>, {
        note(&log, 2);
        rows(b"4\n").execute(pooled)
    });
    assert_eq!((copied, log.ran()), (Ok(1), vec![1, 2]));
    assert_eq!(rows(b"5\n").execute(&mut pooled), Ok(1));
    assert_eq!(db.committed(), [1, 2, 4, 5]);
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = witness)]
struct WitnessRow {
    id: i32,
}

/// `LISTEN` on the wrapper, `notifications_iter` by deref, `NOTIFY` from a block: delivered at its
/// commit.
#[test]
fn listen_and_notify() {
    let db = &Scratch::<PgConnection>::new();
    let (listener, conn) = (&mut db.connect(), &mut db.connect());
    let channel = format!("deferred_{}", std::process::id());
    listener.batch_execute(&format!("LISTEN {channel}")).unwrap();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        diesel::sql_query(format!("NOTIFY {channel}, 'hello'")).execute(conn)?;
        note(&log, 1);
        assert!(listener.notifications_iter().next().is_none(), "not before the commit");
        Ok(())
    })
    .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let notification = loop {
        if let Some(notification) = listener.notifications_iter().next() {
            break notification.unwrap();
        }
        assert!(Instant::now() < deadline, "no notification");
    };
    assert_eq!((notification.channel, notification.payload), (channel, String::from("hello")));
    assert_clean(db, listener, &log);
}

#[derive(Debug, diesel::sql_types::SqlType, diesel::query_builder::QueryId)]
#[diesel(postgres_type(name = "mood"))]
pub struct MoodType;

#[derive(Debug, Clone, Copy, PartialEq, AsExpression, FromSqlRow)]
#[diesel(sql_type = MoodType)]
enum Mood {
    Happy,
    Sad,
}

impl ToSql<MoodType, Pg> for Mood {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(if *self == Self::Happy { b"happy" } else { b"sad" })?;
        Ok(IsNull::No)
    }
}

impl FromSql<MoodType, Pg> for Mood {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        match value.as_bytes() {
            b"happy" => Ok(Self::Happy),
            b"sad" => Ok(Self::Sad),
            other => Err(format!("no mood: {other:?}").into()),
        }
    }
}

diesel::table! {
    use super::MoodType;
    use diesel::sql_types::Integer;

    people (id) {
        id -> Integer,
        mood -> MoodType,
    }
}

/// The type's number is looked up in the catalogue, by the wrapper's metadata cache.
#[test]
fn types_of_ones_own() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut db.connect();
    let log = Log::new();
    conn.batch_execute(
        "CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TABLE people (id int PRIMARY KEY, mood mood)",
    )
    .unwrap();
    let moods = atomic!(conn, -> QueryResult<Vec<Mood>>, {
        note(&log, 1);
        let values = [(people::id.eq(1), people::mood.eq(Mood::Happy)), (people::id.eq(2), people::mood.eq(Mood::Sad))];
        diesel::insert_into(people::table).values(&values).execute(conn)?;
        people::table.filter(people::mood.eq(Mood::Sad)).select(people::mood).load(conn)
    });
    assert_eq!(moods, Ok(vec![Mood::Sad]));
    assert_eq!(log.ran(), [1]);
    assert_clean(db, conn, &log);
}

/// A7: rows in PostgreSQL's default loading mode do not hold the connection: two results at once, a
/// statement meanwhile, and how many rows there are.
#[test]
fn a07_rows_do_not_hold_the_connection() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut db.connect();
    let log = Log::new();
    let seen = atomic!(conn, -> QueryResult<Vec<(i32, i32)>>, {
        for id in 1..=3 {
            PgConnection::insert(conn, id)?;
        }
        let query = || witness::table.select(witness::id).order(witness::id);
        let mut first = query().load_iter::<i32, DefaultLoadingMode>(conn)?;
        let second = query().load_iter::<i32, DefaultLoadingMode>(conn)?;
        assert_eq!((first.next(), first.len(), second.len()), (Some(Ok(1)), 2, 3));
        note(&log, 1);
        PgConnection::insert(conn, 4)?;
        first.zip(second).map(|(first, second)| Ok((first?, second?))).collect()
    });
    assert_eq!(seen, Ok(vec![(2, 1), (3, 2)]));
    assert_eq!((log.ran(), db.committed()), (vec![1], vec![1, 2, 3, 4]));
    assert_clean(db, conn, &log);
}

/// Rows that are fetched one by one.
#[test]
fn rows_one_by_one() {
    let db = &Scratch::<PgConnection>::new();
    let conn = &mut db.connect();
    let log = Log::new();
    let (all, some) = atomic!(conn, -> QueryResult<_>, {
        for id in 1..=5 {
            PgConnection::insert(conn, id)?;
            note(&log, id);
        }
        let query = || witness::table.select(witness::id).order(witness::id);
        let all = query().load_iter::<i32, PgRowByRowLoadingMode>(conn)?.collect::<QueryResult<Vec<_>>>()?;
        let some = query().load_iter::<i32, PgRowByRowLoadingMode>(conn)?.take(2).collect::<QueryResult<Vec<_>>>()?;
        Ok((all, some))
    })
    .unwrap();
    assert_eq!((all, some), (vec![1, 2, 3, 4, 5], vec![1, 2]));
    assert_eq!(log.ran(), [1, 2, 3, 4, 5]);
    assert_clean(db, conn, &log);
}
