//! Statements that borrow: from the connection, from themselves, from a temporary of their own.

use diesel::prelude::*;
use diesel_deferred::{atomic, deferred_task};
use diesel_deferred_tests::{Log, note};

use crate::{Conn, connect};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = diesel::sql_types::Integer)]
    id: i32,
}

fn rows() -> diesel::query_builder::SqlQuery {
    diesel::sql_query("SELECT 1 AS id UNION SELECT 2 ORDER BY id")
}

/// A value that keeps its connection borrowed.
#[must_use]
struct Guard<'c>(&'c mut Conn, Log);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.1.push(i32::from(self.0.in_transaction()));
    }
}

fn guard<'c>(conn: &'c mut Conn, log: &Log) -> Guard<'c> {
    Guard(conn, log.clone())
}

impl Guard<'_> {
    fn id(&self) -> i32 {
        7
    }
}

#[test]
fn two_phase_borrows() -> QueryResult<()> {
    let conn = &mut connect();
    let mut list = vec![1];
    atomic!(conn, -> QueryResult<()>, {
        list.push(list.len());
        list.insert(list.len(), list[0]);
        Ok(())
    })?;
    assert_eq!(list, [1, 1, 1]);
    Ok(())
}

#[test]
fn a_value_that_borrows_the_connection() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let _ = guard(conn, &log);
        conn.pending();
        conn.last_report();
        std::convert::identity(&mut *conn);
        conn.pending().len();
        Ok(())
    })?;
    assert_eq!(log.ran(), [1]);
    Ok(())
}

#[test]
fn a_task_argument_that_borrows_the_connection() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        note(&log, rows().load::<Row>(conn)?[0].id);
        note(&log, rows().load_iter::<Row, _>(conn)?.next().expect("a row")?.id);
        note(&log, guard(conn, &Log::new()).id());
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 1, 7]);
    Ok(())
}

#[test]
fn a_task_after_the_connection_is_gone() -> QueryResult<()> {
    fn close(_: &mut Conn) {}
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let gone = conn;
        note(&log, 1);
        close(gone);
        note(&log, 2);
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}

#[test]
fn a_task_while_the_connection_is_borrowed() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        for row in rows().load_iter::<Row, _>(conn)? {
            note(&log, row?.id);
        }
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 2]);
    Ok(())
}

#[test]
fn statements_that_end_in_a_question_mark() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        diesel::sql_query("CREATE TABLE users (id INTEGER)").execute(conn)?;
        rows().load::<Row>(conn)?;
        Ok::<_, diesel::result::Error>(())?;
        note(&log, 1).after_commit(conn)?;
        Ok(())
    })?;
    assert_eq!(log.ran(), [1]);
    Ok(())
}

#[deferred_task]
fn rename(log: Log, names: Vec<String>) {
    log.push(names.iter().map(String::len).sum::<usize>().try_into().expect("small"));
}

#[test]
fn arguments_move_in() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    let names = vec!["ada".to_owned()];
    let moved = log.clone();
    atomic!(conn, -> QueryResult<()>, {
        rename(moved, names);
        Ok(())
    })?;
    assert_eq!(log.ran(), [3]);
    Ok(())
}

/// Code that was written for a connection of its own: in the block `conn` is a `&mut` already.
#[test]
fn a_mutable_borrow_of_the_connection_is_the_connection() -> QueryResult<()> {
    let mut conn = connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        let ids: Vec<i32> = rows().load::<Row>(&mut conn)?.into_iter().map(|row| row.id).collect();
        assert_eq!(ids, [1, 2]);
        rows().execute(&mut conn)?;
        for id in ids {
            atomic!(conn, -> QueryResult<()>, {
                rows().execute(&mut conn)?;
                note(&log, id);
                Ok(())
            })?;
        }
        let _ = guard(&mut conn, &log).id();
        Ok(())
    })?;
    assert_eq!(log.ran(), [1, 1, 2]);
    Ok(())
}

/// Another variable of that name stays what it is.
#[test]
fn a_mutable_borrow_of_another_connection() -> QueryResult<()> {
    let mut conn = connect();
    atomic!(conn, -> QueryResult<()>, {
        let inside = conn.in_transaction();
        let mut conn = connect();
        rows().execute(&mut conn)?;
        assert_eq!((inside, conn.in_transaction()), (true, false));
        Ok(())
    })
}
