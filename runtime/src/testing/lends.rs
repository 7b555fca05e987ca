//! A connection that is lent for a moment.
//!
//! Must not know: by whom.

use std::ops::DerefMut;

use futures_util::future::BoxFuture;

use crate::error::BoxError;

/// A connection that goes back to where it is from when this is dropped.
#[doc(hidden)]
pub trait Lends<W>: Send {
    /// The connection.
    fn conn(&mut self) -> &mut W;
}

impl<W, P: DerefMut<Target = W> + Send> Lends<W> for P {
    fn conn(&mut self) -> &mut W {
        self
    }
}

/// One that is being lent.
pub type Lending<'l, W> = BoxFuture<'l, Result<Box<dyn Lends<W> + 'l>, BoxError>>;
