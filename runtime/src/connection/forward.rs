//! Every trait of Diesel that the wrapped connection has, forwarded, so that the wrapper is a
//! connection like any other.
//!
//! Must not know: hooks. What a statement tells goes to the [`Watch`](super::watch::Watch).

use std::any::Any;
use std::fmt::Debug;
use std::ops::{Deref, DerefMut};

use diesel::connection::{
    CacheSize, Connection, ConnectionSealed, Instrumentation, LoadConnection, MultiConnectionHelper, SimpleConnection,
    TransactionManager, WithMetadataLookup,
};
use diesel::expression::QueryMetadata;
use diesel::migration::MigrationConnection;
use diesel::query_builder::{Query, QueryFragment, QueryId};
use diesel::query_dsl::UpdateAndFetchResults;
use diesel::result::{ConnectionResult, Error, QueryResult};
use diesel::sql_types::TypeMetadata;

use super::Deferrable;
use super::blocking::{DeferredConnection, DeferredTransactionManager};
use super::ending::Doubt;
use super::store::spill;
use super::watch::Watched;
use super::wrapper::{Wrapper, now};

/// Reads go to the connection below.
impl<C> Deref for DeferredConnection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.inner
    }
}

/// For functions that take the connection below. Statements that run there are not seen by the
/// wrapper, so the commit of the transaction around them is proven even where nothing waits.
impl<C> DerefMut for DeferredConnection<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.inner_mut()
    }
}

impl<C: Deferrable> SimpleConnection for DeferredConnection<C> {
    fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        self.make_room()?;
        self.keeper.watch.suspect(Doubt::RawSql);
        self.keeper.watch.result(self.inner.batch_execute(query))
    }
}

impl<C: Deferrable> DeferredConnection<C> {
    /// Stores durable calls where very many wait: a block that makes them in a loop has statements
    /// in it.
    #[inline]
    pub(super) fn make_room(&mut self) -> QueryResult<()> {
        if self.keeper.has_to_spill() { now(spill(self)) } else { Ok(()) }
    }
}

impl<C: ConnectionSealed> ConnectionSealed for DeferredConnection<C> {}

impl<C: Deferrable> Connection for DeferredConnection<C> {
    type Backend = C::Backend;
    type TransactionManager = DeferredTransactionManager;

    fn establish(database_url: &str) -> ConnectionResult<Self> {
        C::establish(database_url).map(Self::new)
    }

    fn begin_test_transaction(&mut self) -> QueryResult<()> {
        self.inner.begin_test_transaction()
    }

    fn test_transaction<T, E, F>(&mut self, f: F) -> T
    where
        F: FnOnce(&mut Self) -> Result<T, E>,
        E: Debug,
    {
        let mut result = None;
        let _: QueryResult<()> = self.transaction(|conn| {
            // Like one of `begin_test_transaction`: the block inside is the outermost. Nested it is
            // a savepoint as ever.
            if conn.depth() == 1 {
                conn.status().set_test_transaction_flag();
            }
            result = Some(f(conn));
            Err(Error::RollbackTransaction)
        });
        match result {
            Some(Ok(value)) => value,
            // What Diesel's own does: this is for tests.
            Some(Err(error)) => panic!("Transaction did not succeed: {error:?}"),
            None => panic!("Transaction never executed"),
        }
    }

    fn execute_returning_count<T>(&mut self, source: &T) -> QueryResult<usize>
    where
        T: QueryFragment<Self::Backend> + QueryId,
    {
        self.make_room()?;
        self.keeper.watch.query::<T>();
        self.keeper.watch.result(self.inner.execute_returning_count(source))
    }

    fn transaction_state(
        &mut self,
    ) -> &mut <Self::TransactionManager as TransactionManager<Self>>::TransactionStateData {
        self.inner.transaction_state()
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        self.inner.instrumentation()
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.inner.set_instrumentation(instrumentation);
    }

    fn set_prepared_statement_cache_size(&mut self, size: CacheSize) {
        self.inner.set_prepared_statement_cache_size(size);
    }
}

impl<B, C> LoadConnection<B> for DeferredConnection<C>
where
    C: Deferrable + LoadConnection<B>,
{
    type Cursor<'conn, 'query>
        = Watched<C::Cursor<'conn, 'query>>
    where
        C: 'conn;
    type Row<'conn, 'query>
        = C::Row<'conn, 'query>
    where
        C: 'conn;

    fn load<'conn, 'query, T>(&'conn mut self, source: T) -> QueryResult<Self::Cursor<'conn, 'query>>
    where
        T: Query + QueryFragment<Self::Backend> + QueryId + 'query,
        Self::Backend: QueryMetadata<T::SqlType>,
    {
        self.make_room()?;
        self.keeper.watch.query::<T>();
        match self.inner.load(source) {
            Ok(rows) => Ok(Watched { rows, watch: self.keeper.watch.clone() }),
            Err(error) => {
                self.keeper.watch.error(&error);
                Err(error)
            }
        }
    }
}

impl<C> WithMetadataLookup for DeferredConnection<C>
where
    C: Deferrable + WithMetadataLookup,
{
    fn metadata_lookup(&mut self) -> &mut <Self::Backend as TypeMetadata>::MetadataLookup {
        self.inner.metadata_lookup()
    }
}

impl<C> MultiConnectionHelper for DeferredConnection<C>
where
    C: Deferrable + MultiConnectionHelper,
{
    fn to_any<'a>(lookup: &mut <Self::Backend as TypeMetadata>::MetadataLookup) -> &mut (dyn Any + 'a) {
        C::to_any(lookup)
    }

    fn from_any(lookup: &mut dyn Any) -> Option<&mut <Self::Backend as TypeMetadata>::MetadataLookup> {
        C::from_any(lookup)
    }
}

impl<C> MigrationConnection for DeferredConnection<C>
where
    C: Deferrable + MigrationConnection,
{
    fn setup(&mut self) -> QueryResult<usize> {
        self.keeper.watch.suspect(Doubt::RawSql);
        self.inner.setup()
    }
}

impl<Changes, Output, C> UpdateAndFetchResults<Changes, Output> for DeferredConnection<C>
where
    C: Deferrable + UpdateAndFetchResults<Changes, Output>,
{
    fn update_and_fetch(&mut self, changeset: Changes) -> QueryResult<Output> {
        self.make_room()?;
        self.keeper.watch.result(self.inner.update_and_fetch(changeset))
    }
}

#[cfg(feature = "r2d2")]
impl<C> diesel::r2d2::R2D2Connection for DeferredConnection<C>
where
    C: Deferrable + diesel::r2d2::R2D2Connection,
{
    fn ping(&mut self) -> QueryResult<()> {
        self.inner.ping()
    }

    fn is_broken(&mut self) -> bool {
        self.inner.is_broken()
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use diesel::PgConnection;
    use diesel::pg::{CopyFromQuery, GetPgMetadataCache, PgMetadataCache};
    use diesel::prelude::ExecuteCopyFromDsl;

    use super::{Deferrable, DeferredConnection, Doubt};

    impl<C> GetPgMetadataCache for DeferredConnection<C>
    where
        C: Deferrable + GetPgMetadataCache,
    {
        fn get_metadata_cache(&mut self) -> &mut PgMetadataCache {
            self.inner.get_metadata_cache()
        }
    }

    // Not generic over the wrapped connection: rustc would look for a wrapper in a wrapper, 128
    // deep, in its messages.
    macro_rules! copies_from {
        ($($(#[$attribute:meta])* $conn:ty,)*) => {$(
            $(#[$attribute])*
            impl<T, A> ExecuteCopyFromDsl<DeferredConnection<$conn>> for CopyFromQuery<T, A>
            where
                Self: ExecuteCopyFromDsl<PgConnection>,
            {
                type Error = <Self as ExecuteCopyFromDsl<PgConnection>>::Error;

                fn execute(self, conn: &mut DeferredConnection<$conn>) -> Result<usize, Self::Error> {
                    conn.keeper.watch.suspect(Doubt::Unseen);
                    let below: &mut PgConnection = &mut conn.inner;
                    ExecuteCopyFromDsl::execute(self, below)
                }
            }
        )*};
    }

    copies_from! {
        PgConnection,
        #[cfg(feature = "r2d2")] diesel::r2d2::PooledConnection<diesel::r2d2::ConnectionManager<PgConnection>>,
    }
}
