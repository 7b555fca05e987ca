//! What becomes of a statement's value in an `atomic!` block: tasks in it are registered, or do not
//! compile; anything else is handed on.
//!
//! `registrar.__statement(&value).__settle_statement(value)` is all that the expansion writes, a
//! method and no path because a name is found faster than five. Which of three methods that is
//! depends on the type alone, and the compiler tries them in this order:
//! 1. the inherent one, where every task in the value can be reached ([`Settle`]): they are
//!    registered;
//! 2. that of [`Refuse`], where it holds a task that cannot be reached ([`Holds`]): an error;
//! 3. that of [`Pass`], which takes a reference to the statement and so comes last: no task.
//!
//! The traits have a parameter that says how a type came to implement them. The compiler finds it.
//! With it, impls for a task, for a reference and for a container are of different traits, and
//! cannot overlap.
//!
//! Must not know: connections beyond the registrar that a block hands out, and how hooks are
//! stored.

use std::marker::PhantomData;

use super::never::Never;
use super::{Receiver, Start, Taken, Task};
use crate::atomic::Registrar;
use crate::connection::Deferring;
use crate::dispatch::Needs;
#[cfg(feature = "durable")]
use crate::durable::NewTask;
#[cfg(feature = "durable")]
use crate::error::CannotStore;
use crate::hook::Hook;

/// The type of a statement's value, how it is settled, and where: by a block's registrar, or, in a
/// closure or async block, by nobody.
///
/// Not the value itself: a diverging call's would be coerced to a type that is not known yet on its
/// way in. A reference to it is not.
#[derive(Debug)]
pub struct Statement<T, How, By = ()>(By, PhantomData<fn(T, How)>);

impl<T, How> Statement<T, How> {
    /// The statement of this value, out of the block's reach.
    #[inline]
    pub fn of(_: &T) -> Self {
        Self((), PhantomData)
    }
}

impl<W> Registrar<W> {
    /// The statement of this value, in the block.
    #[inline]
    pub fn __statement<T, How>(&self, _: &T) -> Statement<T, How, &Self> {
        Statement(self, PhantomData)
    }
}

/// How a type settles: it is a task.
#[derive(Debug)]
pub struct IsTask;

/// How a type settles: as itself.
#[derive(Debug)]
pub struct Itself;

/// How a type settles: as what it contains does.
#[derive(Debug)]
pub struct Each<How>(PhantomData<How>);

/// How a boxed slice settles.
#[derive(Debug)]
pub struct EachOfSlice<How>(PhantomData<How>);

/// How a type settles whose contents cannot be taken out and put back: as itself, if there is no
/// task in it.
#[derive(Debug)]
pub struct Whole<How>(PhantomData<How>);

/// Where a type holds a task: in its parameter number `N`.
#[derive(Debug)]
pub struct At<const N: usize, Where>(PhantomData<Where>);

impl<W: Deferring, T: Settle<How>, How> Statement<T, How, &Registrar<W>> {
    /// Registers the tasks in the value on the block's connection, in order.
    #[inline]
    pub fn __settle_statement(self, value: T) -> T::Settled {
        value.settle(self.0)
    }
}

impl<T: Settle<How>, How> Statement<T, How> {
    /// Refuses a task: it was called where `atomic!` does not reach.
    pub fn __stray_statement(self, value: T) -> T
    where
        T::Tasks: NoTasks,
    {
        value
    }
}

/// What a statement does whose value holds a task where nothing can take it out: it does not
/// compile.
pub trait Refuse<T>: Sized {
    /// For a statement of the block.
    fn __settle_statement(self, value: T) -> T
    where
        T: Reachable,
    {
        value
    }

    /// For a statement of a closure or async block.
    fn __stray_statement(self, value: T) -> T
    where
        T: Reachable,
    {
        value
    }

    /// For `let _ = …;`.
    fn __dropped_statement(self, value: T) -> T
    where
        T: MayBeDropped,
    {
        value
    }
}

impl<T: Holds<Where>, Where, By> Refuse<T> for Statement<T, Where, By> {}

/// What a statement without a task does with its value: hand it on, so that a dropped `Result`
/// still warns. The names must not meet those of a trait of a user's that is implemented for every
/// type.
pub trait Pass<T>: Sized {
    /// Hands the value on.
    #[inline]
    fn __settle_statement(self, value: T) -> T {
        value
    }

    /// Hands the value on.
    fn __stray_statement(self, value: T) -> T {
        value
    }

    /// Hands the value on.
    fn __dropped_statement(self, value: T) -> T {
        value
    }
}

impl<T, By> Pass<T> for &Statement<T, Itself, By> {}

/// The value of a block.
#[inline]
pub fn value_of<T>(value: T) -> T {
    value
}

/// A value in an arm that is never taken.
pub fn unreachable<T>(_: &T) -> T {
    unreachable!("the arm of this value is never taken")
}

/// Values in which every task can be reached, if there is any.
///
/// Besides tasks and containers: the types that inference would send here anyway, because nothing
/// was known of them yet. For those settling is the identity.
#[diagnostic::on_unimplemented(
    message = "the type of this statement's value is not known early enough in an `atomic!` block",
    label = "this turned out to be `{Self}` only later",
    note = "name the type where the value comes from, as in `let mut list: Vec<User> = Vec::new()`, or write `let _unused = …;`"
)]
pub trait Settle<How>: Sized {
    /// `()` for a task, and with it in place of each task for a container; the value itself
    /// otherwise.
    type Settled;
    /// The tasks in it: a task itself, `()` for what is none, and in tuples those of each element.
    type Tasks;
    /// Registers each task, hands on anything else.
    fn settle<W: Deferring>(self, registrar: &Registrar<W>) -> Self::Settled;
}

/// What is in a value that may be dropped by a statement in a closure or async block.
#[diagnostic::on_unimplemented(
    message = "this task is never registered",
    label = "called in a closure or async block, where `atomic!` does not reach: it may run at any time, or never",
    note = "write a `for` loop in place of the closure, a plain block in place of the async one, or \
            `.after_commit(conn)?` behind the call, with the connection that the closure is given; \
            `.run()` in a hook, which runs after the commit"
)]
pub trait NoTasks {}

impl NoTasks for () {}

/// Values that hold a task somewhere.
pub trait Holds<Where> {}

/// What no value is that came to [`Refuse`].
#[diagnostic::on_unimplemented(
    message = "the tasks in this value are never registered",
    label = "`{Self}` holds a task where `atomic!` cannot take it out",
    note = "make each call a statement of its own, with a `for` loop or a `match` where there are several; \
            behind a `Result` write `?`"
)]
pub trait Reachable {}

/// What no value is that came to [`Refuse`].
#[diagnostic::on_unimplemented(
    message = "`let _ =` drops this task: it never runs",
    label = "`{Self}` is dropped here",
    note = "without `let _ =` the call is registered, and runs after the commit; `.forget()` behind it drops it on purpose"
)]
pub trait MayBeDropped {}

#[diagnostic::do_not_recommend]
impl<T: Task> Settle<IsTask> for T {
    type Settled = ();
    type Tasks = T;

    #[inline]
    fn settle<W: Deferring>(self, registrar: &Registrar<W>) {
        self.hand_over(ToRegistrar(registrar));
    }
}

#[diagnostic::do_not_recommend]
impl<T: Task> Holds<IsTask> for T {}

macro_rules! settles_to_itself {
    ($([$($generic:tt)*] $type:ty,)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($generic)*> Settle<Itself> for $type {
            type Settled = Self;
            type Tasks = ();
            #[inline]
            fn settle<W: Deferring>(self, _: &Registrar<W>) -> Self {
                self
            }
        }
    )*};
}

settles_to_itself! {
    [] (),
    // A diverging call is inferred to be a task otherwise.
    [] Never,
    [] bool, [] char, [] f32, [] f64, [] String,
    [] i8, [] i16, [] i32, [] i64, [] i128, [] isize,
    [] u8, [] u16, [] u32, [] u64, [] u128, [] usize,
    // Whoever has a reference does not drop what it refers to.
    [T: ?Sized] &T, [T: ?Sized] &mut T,
}

/// Containers of one type that are taken apart and put together again.
macro_rules! settles_each {
    ($($how:ident [$($generic:tt)*] $type:ty => $settled:ty, |$this:ident, $settle:ident| $body:expr;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<T: Settle<How>, How, $($generic)*> Settle<$how<How>> for $type {
            type Settled = $settled;
            type Tasks = T::Tasks;

            #[inline]
            fn settle<W: Deferring>(self, registrar: &Registrar<W>) -> Self::Settled {
                let ($this, $settle) = (self, |value: T| value.settle(registrar));
                $body
            }
        }
    )*};
}

// The compiler does not mind that such a value is dropped: `option.map(|id| send(id));`,
// `ids.map(send).collect::<Vec<_>>();`. So the task would be lost without a word.
settles_each! {
    Each [] Option<T> => Option<T::Settled>, |this, settle| this.map(settle);
    Each [] Vec<T> => Vec<T::Settled>, |this, settle| this.into_iter().map(settle).collect();
    Each [] Box<T> => Box<T::Settled>, |this, settle| Box::new(settle(*this));
    Each [const N: usize] [T; N] => [T::Settled; N], |this, settle| this.map(settle);
    EachOfSlice [] Box<[T]> => Box<[T::Settled]>, |this, settle| this.into_vec().into_iter().map(settle).collect();
}

macro_rules! tuples {
    ($(($($type:ident $how:ident $at:literal),*))*) => {$(
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, reason = "a field is called as its type")]
        impl<$($type: Settle<$how>, $how),*> Settle<Each<($($how,)*)>> for ($($type,)*) {
            type Settled = ($($type::Settled,)*);
            type Tasks = ($($type::Tasks,)*);

            #[inline]
            fn settle<Wrapper: Deferring>(self, registrar: &Registrar<Wrapper>) -> Self::Settled {
                let ($($type,)*) = self;
                ($($type.settle(registrar),)*)
            }
        }

        #[diagnostic::do_not_recommend]
        impl<$($type: NoTasks),*> NoTasks for ($($type,)*) {}

        tuples!(holds [$($type)*] $($type $at)*);
    )*};
    (holds [$($all:ident)*]) => {};
    (holds [$($all:ident)*] $type:ident $at:literal $($rest:tt)*) => {
        impl<Where, $($all),*> Holds<At<$at, Where>> for ($($all,)*) where $type: Holds<Where> {}
        tuples!(holds [$($all)*] $($rest)*);
    };
}

// As many as the standard library has traits for.
tuples! {
    (A HowA 0)
    (A HowA 0, B HowB 1)
    (A HowA 0, B HowB 1, C HowC 2)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5, G HowG 6)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5, G HowG 6, H HowH 7)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5, G HowG 6, H HowH 7, I HowI 8)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5, G HowG 6, H HowH 7, I HowI 8, J HowJ 9)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5, G HowG 6, H HowH 7, I HowI 8, J HowJ 9, K HowK 10)
    (A HowA 0, B HowB 1, C HowC 2, D HowD 3, E HowE 4, F HowF 5, G HowG 6, H HowH 7, I HowI 8, J HowJ 9, K HowK 10, L HowL 11)
}

macro_rules! holds {
    ($([$($generic:tt)*] $type:ty;)*) => {$(
        impl<T: Holds<Where>, Where, $($generic)*> Holds<At<0, Where>> for $type {}
    )*};
}

holds! {
    [] Option<T>;
    [] Vec<T>;
    [] [T];
    [const N: usize] [T; N];
}

impl<T: Holds<Where> + ?Sized, Where> Holds<At<0, Where>> for Box<T> {}

/// Std's other types: what is in them stays there. Where that is no task, or not known yet, they
/// pass.
macro_rules! others {
    ($([$($other:ident)*] $type:ty: $($held:ident $how:ident $at:literal),*;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl<$($held: Settle<$how, Tasks: NoTasks>, $how,)* $($other),*> Settle<Whole<($($how,)*)>> for $type {
            type Settled = Self;
            type Tasks = ();

            #[inline]
            fn settle<Wrapper: Deferring>(self, _: &Registrar<Wrapper>) -> Self {
                self
            }
        }

        others!(holds ([$($held)* $($other)*] $type) $($held $at)*);
    )*};
    (holds $type:tt $($held:ident $at:literal)*) => {
        $(others!(one $type $held $at);)*
    };
    (one ([$($all:ident)*] $type:ty) $held:ident $at:literal) => {
        impl<Where, $($all),*> Holds<At<$at, Where>> for $type where $held: Holds<Where> {}
    };
}

others! {
    // Dropped, its error would be lost; behind a `?` it is a task.
    [E] Result<T, E>: T HowT 0;
    [] std::collections::VecDeque<T>: T HowT 0;
    [] std::collections::LinkedList<T>: T HowT 0;
    [] std::collections::BinaryHeap<T>: T HowT 0;
    [] std::collections::BTreeSet<T>: T HowT 0;
    [S] std::collections::HashSet<T, S>: T HowT 0;
    [] std::collections::BTreeMap<K, V>: K HowK 0, V HowV 1;
    [S] std::collections::HashMap<K, V, S>: K HowK 0, V HowV 1;
    [] std::rc::Rc<T>: T HowT 0;
    [] std::sync::Arc<T>: T HowT 0;
    [] std::sync::Mutex<T>: T HowT 0;
    [] std::sync::RwLock<T>: T HowT 0;
    [] std::sync::OnceLock<T>: T HowT 0;
    [] std::cell::Cell<T>: T HowT 0;
    [] std::cell::RefCell<T>: T HowT 0;
    [] std::cell::OnceCell<T>: T HowT 0;
    [] std::pin::Pin<T>: T HowT 0;
    [] std::mem::ManuallyDrop<T>: T HowT 0;
    [] std::cmp::Reverse<T>: T HowT 0;
    [] std::task::Poll<T>: T HowT 0;
    [] std::ops::ControlFlow<B, C>: B HowB 0, C HowC 1;
    [] std::ops::Range<T>: T HowT 0;
    [] std::vec::IntoIter<T>: T HowT 0;
    [] std::option::IntoIter<T>: T HowT 0;
    [] std::thread::JoinHandle<T>: T HowT 0;
}

/// Registers a task on the block's connection.
struct ToRegistrar<'r, W>(&'r Registrar<W>);

impl<W: Deferring> Receiver for ToRegistrar<'_, W> {
    type Output = ();

    #[inline]
    fn receive<T: Task + Send + 'static, S: Start<T>>(self, task: T, start: S) {
        self.0.register(Hook::task(Taken::new(task), start), const { Needs::any::<T, S>() });
    }

    #[cfg(feature = "durable")]
    fn receive_durable(self, call: Result<NewTask, CannotStore>) {
        self.0.store(call);
    }
}

/// What a block without a value ended in.
#[derive(Debug)]
pub struct End<'a, T>(pub &'a T);

impl<T> End<'_, T> {
    /// The block's result: never reached, or a mistake.
    pub fn end<R>(self) -> R
    where
        T: Diverges,
    {
        self.0.never()
    }
}

/// What a block without a value may be: one that never gets to its end.
#[diagnostic::on_unimplemented(
    message = "this `atomic!` block ends without a `Result`",
    label = "`Ok(())` is missing here",
    note = "`Ok(…)` commits, `Err(…)` rolls back"
)]
pub trait Diverges {
    /// Is never called.
    fn never<R>(&self) -> R;
}

#[diagnostic::do_not_recommend]
impl Diverges for Never {
    fn never<R>(&self) -> R {
        match *self {}
    }
}
