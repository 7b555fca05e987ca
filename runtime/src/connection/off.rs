//! How durable calls become rows, where the feature for them is off: there are none.
//!
//! Must not know: anything.

use diesel::result::QueryResult;

use super::ending::{Level, Order};
use super::keeper::Keeper;
use super::wrapper::Wrapper;

impl<W> Keeper<W> {
    #[inline]
    #[allow(clippy::unused_self, reason = "the same as with the feature")]
    pub(super) fn has_to_spill(&mut self) -> bool {
        false
    }

    #[inline]
    #[allow(clippy::unused_self, reason = "the same as with the feature")]
    pub(super) fn has_to_spill_before_nested(&mut self) -> bool {
        false
    }
}

pub(super) async fn store_all<W: Wrapper>(_: &mut W) -> QueryResult<()> {
    Ok(())
}

pub(super) async fn spill<W: Wrapper>(_: &mut W) -> QueryResult<()> {
    Ok(())
}

#[inline]
pub(super) fn tell_workers<W>(_: &mut Keeper<W>) {}

#[inline]
pub(super) fn is_to_notify<W: Wrapper>(_: &mut W, _: Order, _: Level) -> bool {
    false
}

pub(super) async fn send_commit_and_notify<W: Wrapper>(_: &mut W, _: Order) -> QueryResult<()> {
    Ok(())
}
