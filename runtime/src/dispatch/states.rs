//! The values that tasks are given as `#[state]`: one of each type.
//!
//! Must not know: who keeps them.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The states of one dispatcher, or of one worker.
#[derive(Clone, Default)]
pub struct States {
    shared: Arc<HashMap<TypeId, State>>,
    /// What a worker says of the attempt that they are for: a state, too.
    #[cfg(feature = "durable")]
    attempt: Option<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

#[derive(Clone)]
struct State {
    name: &'static str,
    value: Arc<dyn Any + Send + Sync>,
}

impl States {
    /// No states.
    pub(crate) fn none() -> &'static Self {
        static NONE: std::sync::LazyLock<States> = std::sync::LazyLock::new(States::default);
        &NONE
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let state = State { name: type_name::<T>(), value: Arc::new(value) };
        Arc::make_mut(&mut self.shared).insert(TypeId::of::<T>(), state);
    }

    /// The same, for one attempt.
    #[cfg(feature = "worker")]
    pub(crate) fn of_attempt<A: Send + Sync + 'static>(&self, attempt: A) -> Self {
        Self { shared: Arc::clone(&self.shared), attempt: Some((TypeId::of::<A>(), Arc::new(attempt))) }
    }

    /// The value of this type.
    fn get(&self, id: TypeId) -> Option<&Arc<dyn Any + Send + Sync>> {
        #[cfg(feature = "durable")]
        if let Some((of, attempt)) = &self.attempt
            && *of == id
        {
            return Some(attempt);
        }
        self.shared.get(&id).map(|state| &state.value)
    }

    /// The types of the program's own, by name.
    #[cfg(feature = "worker")]
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.shared.values().map(|state| state.name).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn has(&self, required: &Required) -> bool {
        self.get((required.id)()).is_some()
    }

    /// The state of this type.
    #[doc(hidden)]
    pub fn shared<T: SharedState>(&self) -> Option<Arc<T>> {
        Arc::clone(self.get(TypeId::of::<T>())?).downcast().ok()
    }

    /// A clone of the state of this type.
    #[doc(hidden)]
    pub fn cloned<T: ClonedState>(&self) -> Option<T> {
        self.get(TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.shared.values().map(|state| state.name)).finish()
    }
}

/// A type that a task asks for.
#[derive(Clone, Copy)]
pub struct Required {
    id: fn() -> TypeId,
    name: fn() -> &'static str,
}

impl Required {
    /// For a `#[state]` that is taken by reference. What it has to be is asked for where it is
    /// taken, and there only: one mistake, one message.
    pub const fn shared<T: ?Sized + 'static>() -> Self {
        Self { id: TypeId::of::<T>, name: type_name::<T> }
    }

    /// For a `#[state]` that is taken by value.
    pub const fn cloned<T: ?Sized + 'static>() -> Self {
        Self::shared::<T>()
    }

    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }
}

impl fmt::Debug for Required {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A `#[state]` that tasks are given by reference.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the `#[state]` of a task",
    label = "is not `Send + Sync + 'static`",
    note = "all tasks that run share a state, on any thread: put what is not `Sync` into a `Mutex`, `Arc` in place of `Rc`, and \
            no borrows"
)]
pub trait SharedState: Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + 'static> SharedState for T {}

/// A `#[state]` that tasks are given by value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the `#[state]` of a task by value: it is not `Clone + Send + Sync + 'static`",
    label = "is not `Clone + Send + Sync + 'static`",
    note = "each task that runs gets a clone of it, on any thread: take `&{Self}`, or an `Arc` of it, where it is not `Clone`; write \
            `Arc` in place of `Rc`, and `Mutex` in place of `RefCell`"
)]
pub trait ClonedState: Clone + SharedState {}

#[diagnostic::do_not_recommend]
impl<T: Clone + SharedState> ClonedState for T {}
