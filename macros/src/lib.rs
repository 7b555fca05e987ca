//! The macros of `diesel-deferred`: syntax in, tokens out. Depend on that crate, which re-exports
//! them.
//!
//! Must not know: any database.

mod atomic;
#[cfg(test)]
mod expansions;
mod paths;
mod task;
#[cfg(any(feature = "testing", test))]
mod testing;

use proc_macro::TokenStream;

/// Makes a call of a function a value that can wait for a commit.
///
/// `#[deferred_task] fn name(args) -> R` becomes a struct `name`, the captured call, and a function
/// `name(args) -> name` that captures it. Calling the function runs nothing: what becomes of the
/// call is said by one of these.
///
/// | written | meaning |
/// |---|---|
/// | `name(args);` as a statement of [`atomic!`](macro@atomic) | run after the outermost commit |
/// | `name(args).after_commit(conn)?` | the same, in closures, helper functions and arguments of macros; outside of a transaction it is `Err(NotInTransaction)` |
/// | `name(args).after_commit_or_now(conn)?` | the same, and outside of a transaction at once |
/// | `name(args).after_rollback(conn)?` | run when what it belongs to is rolled back |
/// | `name(args).run()` | run now, on purpose; of an `async fn` it is the future, and `.await` runs it |
/// | `name(args).forget()` | dropped, on purpose |
///
/// A call that is dropped without any of these is lost. It is told by a `tracing` event at WARN,
/// with the task's name and the place of the call; so is the future of `.run()` that was never
/// polled. A panic that drops calls tells of itself only.
///
/// # Where it runs
/// | written as | runs |
/// |---|---|
/// | `#[deferred_task] fn` | on the thread that commits, before `atomic!` returns, in the order of the calls |
/// | `#[deferred_task] async fn` | spawned on tokio by the dispatcher right after the COMMIT, started in the order of the calls |
/// | `#[deferred_task(blocking)] fn` | on tokio's pool for blocking work, started in the order of the calls |
/// | `#[deferred_task(durable)] fn` or `async fn` | in a worker, in this process or in another one: see [below](#durable-tasks) |
///
/// The future of an `async fn` must be `Send`. `.run()` never spawns: it runs where it is called.
///
/// # Arguments
/// Every argument is captured by value at the call. Owned ones move in; `&T`, `&str`, `&[T]`,
/// `&Path` are copied with [`ToOwned`] and handed to the body as the reference it asked for. They
/// must be `Send + 'static`; `Debug` ones are shown in lists of pending hooks. Generic parameters
/// and `where` clauses work as in any function.
///
/// `&mut T`, a reference or lifetime inside a type, `self`, `impl Trait` and patterns are refused,
/// each with what to write instead.
///
/// `#[secret] password: &str` is never shown: `pending()`, `Debug` of the call, reports, events and
/// the column `error` of a durable row have `<secret>` in its place, or leave out the text that may
/// quote it. Its type needs no `Debug`. The body and the row of a durable call have the value: what
/// the body says of it, in its errors and panics too, and who may read the table, is yours to
/// decide. An attribute that prints arguments, such as `#[tracing::instrument]`, has to skip it:
/// below `#[deferred_task]` that is checked, above it cannot be.
///
/// # State
/// `#[state] name: T` is not an argument of the call but something that the task needs to run, such
/// as a mailer or a pool. It is found by its type when the task runs, and may stand anywhere among
/// the arguments.
///
/// ```text
/// #[deferred_task]
/// async fn send_receipt(#[state] mailer: &Mailer, order_id: i64) -> Result<(), MailError> { … }
///
/// send_receipt(order.id);                                  // as a statement of `atomic!`
/// send_receipt(order.id).run(&mailer).await?;              // states are parameters of `run`, in their order
/// ```
///
/// `T` is cloned for each run and must be `Clone + Send + Sync + 'static`. `&T` is shared by all
/// tasks that run and must be `Send + Sync + 'static`. `&mut T` is refused: take `&T` with a
/// `Mutex` in it.
///
/// # Return type
/// `()`, or `Result<(), E>` where `E` converts into `Box<dyn Error + Send + Sync>`. An error is
/// reported, see `DeferredConnection::last_report`; it changes nothing that was committed.
///
/// # Options
/// * `blocking`: see above; not on an `async fn`.
/// * `durable`, and the options that only a durable task has: see below.
/// * `name = "…"`: the name in reports, and in the rows of a durable task; module path and function
///   name otherwise.
/// * `crate = "…"`: the path of `diesel_deferred`, where it is re-exported by another crate.
///
/// # Durable tasks
/// With the feature `durable`. A call becomes a row of the table `deferred_tasks`, which is written
/// in the transaction of the call and committed or rolled back with it. A worker takes the row and
/// runs the task: after a crash, too, and on another machine.
///
/// ```text
/// #[deferred_task(durable, queue = "mail", max_attempts = 5, key = "order-{order_id}")]
/// async fn send_receipt(#[state] mailer: &Mailer, order_id: i64) -> Result<(), MailError> { … }
///
/// send_receipt(order.id);                                          // as a statement of `atomic!`
/// send_receipt(order.id).delay(Duration::from_secs(60));           // the same, a minute later
/// let id: TaskId = send_receipt(order.id).after_commit(conn)?;     // the row's id, known before the row is written
/// ```
///
/// It runs *at least* once: a worker that dies after the task's last line, and before it could say
/// so, has the task run again. So what the task does elsewhere should be keyed by the call:
/// `#[state] attempt: Attempt` has its `id()`. An error, a panic and a timeout are failed attempts,
/// which are repeated; the errors `Snooze` and `Discard` ask for another end.
///
/// An `async fn` runs on the worker's runtime, any other on its pool for blocking work. `.run()`
/// runs the body in place and stores nothing. A row lives and dies with its transaction, so that
/// there is no `after_rollback` and no `after_commit_or_now`.
///
/// | option | takes | without it | meaning |
/// |---|---|---|---|
/// | `queue = "mail"` | a name | `"default"` | where workers look for it |
/// | `priority = -1` | a number from -32768 to 32767 | 0 | of the calls that are due, the lowest number runs first |
/// | `max_attempts = 5` | a number from 1 to 65535 | 20 | how often a call is tried, with the first time |
/// | `backoff = "30s"` | a time | 10 seconds | how long the second attempt waits; each further one waits twice as long |
/// | `timeout = "2m"` | a time | none | how long an attempt of an `async fn` may take |
/// | `key = "order-{order_id}"` | a format string that can name arguments | no key | what the call is about: calls of one key run one after the other, in their order |
/// | `unique`, `unique = "keep"` | | every call is a row | a new call is dropped while one of the same task and key waits to be started for the first time |
/// | `unique = "replace"` | | | the new call takes the place of the one that waits |
/// | `was = "shop::mail::send"` | a name, also several times | none | what the task was called: rows of that name are its calls, too |
///
/// A time is a string of a whole number and a unit: `ms`, `s`, `m`, `h` or `d`. Without a key,
/// `unique` compares all arguments. A call that gives way to another one is no error; the `TaskId`
/// that it was given is that of no row. Transactions that write the same unique calls at the same
/// time wait for each other, and may deadlock on MySQL and MariaDB:
/// `atomic!(conn, retries = 3, { … })` runs them again. So it does where the isolation level is
/// `RepeatableRead` or `Serializable` on PostgreSQL, and the other call is not visible yet.
///
/// A key is one for all tasks and queues. A call that is tried again, or snoozed, holds up those of
/// its key behind it until it has ended or is a dead letter; one that is for later holds up nobody
/// before its time.
///
/// A single call may say otherwise: `.delay(Duration)` or `.run_at(SystemTime)`, `.key(…)`,
/// `.queue(…)`, `.priority(…)`, `.max_attempts(…)`. They go between the call and its registration.
/// Other tasks don't have them.
///
/// ## Arguments in rows
/// The arguments are stored as JSON, each under its name. Their types must be
/// `Serialize + DeserializeOwned`, besides `Send + 'static`; what a reference refers to is stored
/// in its place. A durable task cannot be generic. `#[serde(…)]` on an argument does what it does
/// on a field, such as `#[serde(with = "…")]` for a type that has neither.
///
/// What would not come back from JSON as it went in is refused at the call, like any mistake in it,
/// with a message that names the argument and the place in it:
/// * NaN and the infinities, for which JSON has no number;
/// * a `Some` of what is `null` in JSON, which would be read as `None`: `Some(None)`, `Some(())`,
///   `Some(serde_json::Value::Null)`;
/// * an argument that nests more than 126 levels deep, counted in brackets: nothing reads it;
/// * two fields of one name, by `#[serde(flatten)]`, `#[serde(tag = "…")]` or `#[serde(rename)]`.
///
/// That a type's `Deserialize` takes what its `Serialize` writes is not tried at the call. It does
/// not with `#[serde(skip_serializing)]` and no default, or an `#[serde(untagged)]` enum whose
/// variants look the same in JSON.
///
/// A row may be read by a later version of the program than the one that wrote it, or by an earlier
/// one:
/// * an argument that is not in the row is `None` where it is an `Option`; any other needs a
///   `#[serde(default)]`. So a new argument should have one of the two;
/// * what is in the row and no argument is left alone: an argument may be removed;
/// * one that is renamed needs `#[serde(alias = "the old name")]`;
/// * a row names its task by module path and function. A task that is moved or renamed needs
///   `name = "…"` with what it was called, or `was = "…"`. With `name` both versions of the program
///   can run the calls of the other; with `was` an older one leaves the new calls to the new one.
///
/// A row that a program cannot read, or of whose task it knows nothing, waits for a program that
/// can. Nothing is spent, nobody is held up, and the worker tells of it. Where none comes the row
/// becomes a dead letter, with the reason, after `WorkerBuilder::give_up_unknown_after`.
///
/// ## Very many calls
/// Calls wait in memory for the COMMIT, up to 10,000 of them or 2 MB of their arguments. What is
/// beyond is stored earlier, in the transaction or nested block that it belongs to: at the next
/// statement, `.after_commit(conn)`, or beginning or end of a nested block. On an asynchronous
/// connection a statement cannot wait for that; there it is at the beginning or end of a nested
/// block, and at `batch_execute`. So a loop with neither, and one that does nothing but call, keeps
/// all of its calls: give such a loop's body an `atomic!` of its own.
///
/// ## Where tasks are found
/// A worker knows all durable tasks that are linked into its program. A crate of which a program
/// uses nothing is not linked: write `use my_tasks as _;` there.
///
/// # Attributes
/// Doc comments and `#[deprecated]` go to the function that captures, `#[cfg]` to all that is
/// generated, everything else (such as `#[tracing::instrument]`) to the body. `allow`, `expect`,
/// `warn`, `deny` and `forbid` reach what they are about: the signature and the body, as if the
/// function were a plain one.
#[proc_macro_attribute]
pub fn deferred_task(options: TokenStream, item: TokenStream) -> TokenStream {
    task::deferred_task(options.into(), item.into()).into()
}

/// Runs a block in a transaction; task calls in it run after the outermost commit.
///
/// ```text
/// atomic!(conn, { … })                           the block's value is its `Result`
/// atomic!(conn, async { … }).await               the same on an async connection
/// atomic!(conn, -> Result<T, E>, { … })          names the result where inference can't
/// atomic!(conn = expr, { … })                    when the connection isn't a plain identifier
/// atomic!(conn, isolation = Serializable, read_only, deferrable, immediate, exclusive, outermost, retries = 3, { … })
/// ```
///
/// Options and result type stand before `async { … }` and `async move { … }` as they do before
/// `{ … }`.
///
/// The outermost block is a transaction, a nested one a savepoint. `Ok` commits, `Err` and panics
/// roll back to where the block began. `?` and `return` leave the block, as in a closure. The error
/// type must implement `From<diesel::result::Error>`, which is what BEGIN and COMMIT may fail with.
///
/// `conn` names a `DeferredConnection`, a `&mut` to one, or something that derefs to one, such as a
/// pooled connection. In the block it is a `&mut DeferredConnection<C>`, and `&mut conn` is the
/// same there, as in code that was written for a connection of its own; but not in the arguments of
/// macros, or where a closure of the block has a parameter of that name. For an async block all of
/// this is said of `AsyncDeferredConnection`.
///
/// # Async blocks
/// `atomic!(conn, async { … })` is a future. It runs nothing before it is awaited, not even BEGIN;
/// one that is never awaited is a warning. `?` and `return` leave the block, as in any async block.
/// The expression of `conn = expr` is a part of the future, too: a `?` in it is an error of the
/// block's.
///
/// Dropping the future before it is ready rolls the transaction back; the connection refuses
/// further use, see `AsyncDeferredConnection`. With `retries` the block may run more than once: it
/// borrows what it captures and cannot move out of it, also behind `async move`.
///
/// # Task calls
/// A statement whose value is a task registers it: `send_welcome(user.id);`. Of a tuple, an array,
/// a `Box`, an `Option`, a `Vec`, and of these in one another, it registers each task, in order:
/// `email.map(|email| send_welcome(&email));`. This reaches every statement, at any depth of `if`,
/// `match`, loops and blocks, and what `break` gives to a loop or block that is a statement.
///
/// It does not reach into closures, async blocks, nested functions and arguments of macros, which
/// may outlive the block or never run. Write `send_welcome(user.id).after_commit(conn)?` there.
/// What happens to one who forgets:
/// * a value with a task in it that cannot be taken out (in a `Result`, in another of std's types,
///   or beside something of a type of your own) is a compile error;
/// * a task that is a statement of a closure or async block, or the value of one that is given to
///   `for_each`, `spawn`, `spawn_blocking` or `spawn_local`, is a compile error;
/// * so are `let _ = task(x);`, and a tuple, an array or a `vec![…]` of calls and literals there;
/// * in a block with a macro whose arguments have a name in them, `unused_must_use` is denied: of
///   your own macros, and any but std's and those of `tracing` and `log`. Where the macro itself
///   writes the call, and in nested functions, it warns. That lint does not look into an `Option`
///   or a `Vec`;
/// * what you hand to something else is yours: `drop(task(x))`, a list of tasks that is kept or
///   counted. Where it is dropped unregistered, a `tracing` event at WARN names task and call.
///
/// # Other statements
/// Nothing happens to them, but for this:
/// * `#[must_use]` on a *function* (not on its type) is not seen by the compiler in a statement of
///   the block; and Clippy's `diverging_sub_expression` is off in it;
/// * a statement whose value has a type that only later code decides, such as
///   `list.swap_remove(0);` before the first `push`, may not compile: the message says where to
///   write the type;
/// * `break` and `continue` can't leave the block, as they can't leave a closure.
///
/// The block ends with a `Result`; `Ok(())` where there is nothing to return.
///
/// # Options
#[doc = include_str!("atomic/options.md")]
///
/// An option that the backend does not have does not compile. All but the last three belong to
/// BEGIN, so they can't be nested either. With `retries` the block may run more than once, async or
/// not, so it can't move out of what it captures.
///
/// # Errors
/// What the block returns; what BEGIN or COMMIT return; a `CommitError` for a commit that did not
/// commit.
#[proc_macro]
pub fn atomic(input: TokenStream) -> TokenStream {
    atomic::atomic(input.into()).into()
}

/// Puts `items` beside the item that it stands on. Named by the expansion of
/// [`deferred_task`](macro@deferred_task) only.
#[doc(hidden)]
#[proc_macro_attribute]
pub fn __with_items(items: TokenStream, item: TokenStream) -> TokenStream {
    [item, items].into_iter().collect()
}

#[doc(hidden)]
#[cfg(feature = "testing")]
#[proc_macro]
pub fn __assertion(input: TokenStream) -> TokenStream {
    testing::assertion(input.into()).into()
}
