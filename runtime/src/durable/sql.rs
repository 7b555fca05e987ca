//! Statements of ours, for any backend: text, with values in it.
//!
//! Must not know: which statements there are.

use std::borrow::Cow;
use std::marker::PhantomData;

use diesel::backend::Backend;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, Bool, HasSqlType, Integer, Nullable, SmallInt, Text};

use super::dialect::Dialect;
use super::id::{SqlTaskId, TaskId};

/// A statement whose rows are of the SQL type `R`; of one without rows it is `()`.
#[derive(Debug, Clone)]
pub(crate) struct Sql<'a, R = ()> {
    pieces: Vec<Piece<'a>>,
    /// Whether its text is always the same, so that it is worth to be kept prepared.
    fixed: bool,
    rows: PhantomData<fn() -> R>,
}

#[derive(Debug, Clone)]
enum Piece<'a> {
    Text(Cow<'static, str>),
    /// The time in milliseconds.
    Now,
    /// Where there is such a row, it stays.
    UnlessThere,
    Bind(Bind<'a>),
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Bind<'a> {
    Id(TaskId),
    Text(Cow<'a, str>),
    OptionalText(Option<&'a str>),
    Small(i16),
    Int(i32),
    Big(i64),
    Bool(bool),
}

macro_rules! binds {
    ($($type:ty => $variant:ident,)*) => {$(
        impl<'a> From<$type> for Bind<'a> {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

binds! {
    TaskId => Id,
    &'a str => Text,
    String => Text,
    Option<&'a str> => OptionalText,
    i16 => Small,
    i32 => Int,
    i64 => Big,
    bool => Bool,
}

impl<'a, R> Sql<'a, R> {
    /// Begins one.
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { pieces: vec![Piece::Text(text.into())], fixed: true, rows: PhantomData }
    }

    /// Adds text.
    pub(crate) fn sql(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.push_sql(text);
        self
    }

    /// Adds a value.
    pub(crate) fn bind(mut self, value: impl Into<Bind<'a>>) -> Self {
        self.push_bind(value);
        self
    }

    /// Adds the time in milliseconds, as the database has it.
    pub(crate) fn now(mut self) -> Self {
        self.pieces.push(Piece::Now);
        self
    }

    /// Ends an INSERT: where there is such a row, it stays.
    pub(crate) fn unless_there(mut self) -> Self {
        self.pieces.push(Piece::UnlessThere);
        self
    }

    pub(crate) fn push_sql(&mut self, text: impl Into<Cow<'static, str>>) {
        self.pieces.push(Piece::Text(text.into()));
    }

    pub(crate) fn push_bind(&mut self, value: impl Into<Bind<'a>>) {
        self.pieces.push(Piece::Bind(value.into()));
    }

    /// Adds a list of values for `IN`. The last one is repeated until there are 1, 2, 4, 8, …, so that
    /// there are few texts to be prepared; not where the text varies anyway.
    pub(crate) fn list<B: Into<Bind<'a>>>(self, values: impl IntoIterator<Item = B>) -> Self {
        self.listed("", values, ", ")
    }

    /// The same as rows of one column, for `VALUES`.
    #[cfg(feature = "async-sqlite")]
    pub(crate) fn rows<B: Into<Bind<'a>>>(self, values: impl IntoIterator<Item = B>) -> Self {
        self.listed("(", values, "), (").sql(")")
    }

    fn listed<B: Into<Bind<'a>>>(
        mut self,
        before: &'static str,
        values: impl IntoIterator<Item = B>,
        between: &'static str,
    ) -> Self {
        let mut values: Vec<Bind<'a>> = values.into_iter().map(Into::into).collect();
        if let Some(last) = values.last().cloned().filter(|_| self.fixed) {
            values.resize(values.len().next_power_of_two(), last);
        }
        for (at, value) in values.into_iter().enumerate() {
            self.push_sql(if at == 0 { before } else { between });
            self.push_bind(value);
        }
        self
    }

    /// With values of its own.
    #[cfg(feature = "testing")]
    pub(crate) fn into_owned(self) -> Sql<'static, R> {
        let owned = |piece| match piece {
            Piece::Text(text) => Piece::Text(text),
            Piece::Now => Piece::Now,
            Piece::UnlessThere => Piece::UnlessThere,
            Piece::Bind(bind) => Piece::Bind(match bind {
                Bind::Id(id) => Bind::Id(id),
                Bind::Text(text) => Bind::Text(text.into_owned().into()),
                Bind::OptionalText(Some(text)) => Bind::Text(text.to_owned().into()),
                Bind::OptionalText(None) => Bind::OptionalText(None),
                Bind::Small(number) => Bind::Small(number),
                Bind::Int(number) => Bind::Int(number),
                Bind::Big(number) => Bind::Big(number),
                Bind::Bool(flag) => Bind::Bool(flag),
            }),
        };
        Sql { pieces: self.pieces.into_iter().map(owned).collect(), fixed: self.fixed, rows: PhantomData }
    }

    /// Its text varies.
    pub(crate) fn varying(mut self) -> Self {
        self.fixed = false;
        self
    }
}

impl<DB, R> QueryFragment<DB> for Sql<'_, R>
where
    DB: Backend + Dialect + HasSqlType<SqlTaskId> + HasSqlType<Bool>,
    TaskId: ToSql<SqlTaskId, DB>,
    str: ToSql<Text, DB>,
    i16: ToSql<SmallInt, DB>,
    i32: ToSql<Integer, DB>,
    i64: ToSql<BigInt, DB>,
    bool: ToSql<Bool, DB>,
    for<'s> Option<&'s str>: ToSql<Nullable<Text>, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        if !self.fixed {
            out.unsafe_to_cache_prepared();
        }
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_sql(text),
                Piece::Now => out.push_sql(DB::NOW_MS),
                Piece::UnlessThere => out.push_sql(DB::UNLESS_THERE),
                Piece::Bind(Bind::Id(id)) => out.push_bind_param::<SqlTaskId, _>(id)?,
                Piece::Bind(Bind::Text(text)) => out.push_bind_param::<Text, str>(text)?,
                Piece::Bind(Bind::OptionalText(text)) => out.push_bind_param::<Nullable<Text>, _>(text)?,
                Piece::Bind(Bind::Small(number)) => out.push_bind_param::<SmallInt, _>(number)?,
                Piece::Bind(Bind::Int(number)) => out.push_bind_param::<Integer, _>(number)?,
                Piece::Bind(Bind::Big(number)) => out.push_bind_param::<BigInt, _>(number)?,
                Piece::Bind(Bind::Bool(flag)) => out.push_bind_param::<Bool, _>(flag)?,
            }
        }
        Ok(())
    }
}

impl<R> QueryId for Sql<'_, R> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<R> Query for Sql<'_, R> {
    type SqlType = R;
}

impl<R, Conn> diesel::RunQueryDsl<Conn> for Sql<'_, R> {}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::collections::BTreeSet;

    use diesel::query_builder::{QueryBuilder, QueryFragment};
    use diesel::sqlite::{Sqlite, SqliteQueryBuilder};

    use super::Sql;

    fn text(sql: &Sql<'_>) -> String {
        let mut text = SqliteQueryBuilder::new();
        sql.to_sql(&mut text, &Sqlite).expect("a statement");
        text.finish()
    }

    #[test]
    fn d16_lists_of_any_length_have_few_texts_which_are_kept_prepared() {
        let texts: BTreeSet<_> = (1..=1_000)
            .map(|length| {
                let sql = Sql::<()>::new("DELETE FROM t WHERE n IN (").list(0..length).sql(")");
                assert!(sql.is_safe_to_cache_prepared(&Sqlite).expect("a statement"));
                text(&sql)
            })
            .collect();
        assert_eq!(texts.len(), 11);
        assert_eq!(text(&Sql::new("(").list([1, 2, 3]).sql(")")), "(?, ?, ?, ?)");
    }

    #[cfg(feature = "async-sqlite")]
    #[test]
    fn rows_are_a_list_too() {
        assert_eq!(text(&Sql::new("VALUES ").rows([1, 2, 3])), "VALUES (?), (?), (?), (?)");
    }
}
