//! The connections that pools hand out, for what is implemented for each of them in the same way.
//!
//! Must not know: what that is.

/// Gives the list to a macro: feature, generic parameters, type, and what the type derefs to.
macro_rules! for_each_pooled {
    ($apply:ident) => {
        $apply! {
            "r2d2" [M: diesel::r2d2::ManageConnection] diesel::r2d2::PooledConnection<M> => M::Connection,
            "bb8" [M: bb8::ManageConnection] bb8::PooledConnection<'_, M> => M::Connection,
            "deadpool" [M: deadpool::managed::Manager] deadpool::managed::Object<M> => M::Type,
            "mobc" [M: mobc::Manager] mobc::Connection<M> => M::Connection,
        }
    };
}

pub(crate) use for_each_pooled;
