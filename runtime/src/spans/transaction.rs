//! The span of the open transaction, and what calls in it are a part of.
//!
//! The span begins where something is called in the transaction for the first time: a block that calls
//! nothing has none, and costs no more than a look at the span around it.
//!
//! Must not know: connections.

use std::fmt;

use tracing::Span;
use tracing::span::Id;

use super::origin::Origin;
use super::span::{current, is_on, transaction};

/// What the calls of a connection are a part of, found once for each span.
#[derive(Default)]
pub(crate) struct Origins {
    open: Option<Open>,
    last: Option<(Option<Id>, Origin)>,
}

/// A transaction that is open.
struct Open {
    /// The span in which it was begun: what is called there is a part of the transaction.
    around: Option<Id>,
    started: Option<Box<Started>>,
}

/// The transaction's span.
pub(crate) struct Started {
    origin: Origin,
    /// Held until the transaction's end.
    _span: Span,
}

impl Started {
    /// It begins. Not where anything is locked: a subscriber is told.
    pub(crate) fn begin(around: Option<Id>) -> Box<Self> {
        let span = transaction(around);
        Box::new(Self { origin: Origin::of(&span), _span: span })
    }
}

/// What was open before a transaction, which may be one in whose hooks this one is; nothing where
/// nobody listened.
#[must_use = "a span that is not ended goes on"]
pub(crate) struct Around(Option<Option<Open>>);

impl Around {
    /// Nobody listened.
    pub(crate) const fn nothing() -> Self {
        Self(None)
    }
}

/// A transaction that begins.
pub(crate) struct Begun(Option<Open>);

impl Begun {
    /// In the span that is current.
    #[inline]
    pub(crate) fn here() -> Self {
        Self(is_on().then(|| Open { around: current(), started: None }))
    }
}

impl Origins {
    /// A transaction begins.
    #[inline]
    pub(crate) fn begin(&mut self, Begun(open): Begun) -> Around {
        self.last = None;
        Around(open.map(|open| self.open.replace(open)))
    }

    /// It has ended. What is returned is to be dropped where nothing is locked: a subscriber is told.
    #[inline]
    pub(crate) fn end(&mut self, around: Around) -> impl Sized + use<> {
        self.last = None;
        around.0.map(|around| std::mem::replace(&mut self.open, around))
    }

    /// What a call is a part of that is made in this span, where that is known.
    pub(crate) fn known(&self, now: &Option<Id>) -> Option<Origin> {
        match &self.open {
            Some(Open { around, started }) if around == now => started.as_ref().map(|started| started.origin.clone()),
            _ => self.last.as_ref().filter(|(of, _)| of == now).map(|(_, origin)| origin.clone()),
        }
    }

    /// Whether that is the open transaction.
    pub(crate) fn is_transaction(&self, now: &Option<Id>) -> bool {
        self.open.as_ref().is_some_and(|open| open.around == *now)
    }

    /// Finds out what is current. Not where anything is locked: a subscriber is asked.
    pub(crate) fn find() -> Origin {
        Origin::of(&Span::current())
    }

    /// That was found out.
    pub(crate) fn note(&mut self, now: Option<Id>, origin: Origin) {
        self.last = Some((now, origin));
    }

    /// The span of the open transaction has begun.
    pub(crate) fn start(&mut self, started: Box<Started>) -> Origin {
        let origin = started.origin.clone();
        if let Some(open) = &mut self.open {
            open.started = Some(started);
        }
        origin
    }

    /// The open transaction's span, or the span that it is to be in; `None`: there is none.
    pub(crate) fn transaction(&self) -> Option<Result<Origin, Option<Id>>> {
        let Open { around, started } = self.open.as_ref()?;
        Some(started.as_ref().map_or_else(|| Err(around.clone()), |started| Ok(started.origin.clone())))
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins").finish_non_exhaustive()
    }
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").finish_non_exhaustive()
    }
}
