//! The wrapper is a connection like the one below it: what DIESEL.md 1.3 and 1.4 list as working
//! through it.

mod multi;
mod pools;
#[cfg(feature = "postgres")]
mod postgres_only;
mod queries;
mod transactions;

diesel::table! {
    /// Made by the embedded migration.
    notes (id) {
        id -> Integer,
        body -> Text,
    }
}

/// Makes tests of each body, once for each database, where `Inner` is its connection and `$db` a
/// scratch database. For what Diesel implements for concrete connections only, so that a generic
/// function would need a page of bounds.
#[macro_export]
macro_rules! on_each_connection {
    ($($(#[$attribute:meta])* fn $name:ident($db:ident) $body:block)*) => {
        mod sqlite {
            use super::*;
            #[allow(dead_code)]
            type Inner = diesel::SqliteConnection;
            $($(#[$attribute])* #[test] fn $name() {
                let $db = &diesel_deferred_tests::Scratch::<Inner>::new();
                $body
            })*
        }
        #[cfg(feature = "postgres")]
        mod postgres {
            use super::*;
            #[allow(dead_code)]
            type Inner = diesel::PgConnection;
            $($(#[$attribute])* #[test] fn $name() {
                let $db = &diesel_deferred_tests::Scratch::<Inner>::new();
                $body
            })*
        }
        #[cfg(feature = "mysql")]
        mod mysql {
            use super::*;
            #[allow(dead_code)]
            type Inner = diesel::MysqlConnection;
            $($(#[$attribute])* #[test] fn $name() {
                let $db = &diesel_deferred_tests::Scratch::<Inner>::new();
                $body
            })*
        }
    };
}
