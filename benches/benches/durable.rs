//! What durable tasks cost on PostgreSQL, beside the same by hand on the same table: enqueueing,
//! draining, waking a worker, and doing nothing; and what telling workers costs those who commit. Both sides in alternating slices, as in
//! `side_by_side`: prints the ratio of the medians.
//!
//! `PG_DATABASE_URL=… cargo bench -p diesel-deferred-benches --bench durable`; `--test` runs each
//! once. Words after `--` choose parts: `keys`, `enqueue`, `commit`, `drain`, `wake`, `idle`, `floor`. It makes a
//! schema of its own, and drops it at the end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use diesel::connection::{InstrumentationEvent, SimpleConnection};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use diesel_deferred::{
    AsyncDeferredConnection, DeferredConnection, TaskId, Worker, WorkerBuilder, atomic, deferred_task,
};
use diesel_migrations::MigrationHarness;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

/// How many tasks a worker of these benches runs at a time.
const CONCURRENCY: usize = 100;

static RAN: AtomicU64 = AtomicU64::new(0);

#[deferred_task(durable, name = "noop", queue = "bench")]
async fn noop(#[state] progress: &Arc<Progress>, number: i64) {
    let _ = number;
    progress.ran();
}

#[deferred_task(durable, name = "arrive", queue = "wake")]
async fn arrive(#[state] arrivals: &mpsc::UnboundedSender<Instant>) {
    let _ = arrivals.send(Instant::now());
}

/// Counts tasks, and says when so many have run.
#[derive(Debug)]
struct Progress {
    tasks: u64,
    /// When each tenth of them had run.
    tenths: Mutex<Vec<Instant>>,
    all: Notify,
}

impl Progress {
    fn of(tasks: u64) -> Arc<Self> {
        RAN.store(0, Ordering::Relaxed);
        Arc::new(Self { tasks, tenths: Mutex::default(), all: Notify::new() })
    }

    fn ran(&self) {
        let ran = RAN.fetch_add(1, Ordering::Relaxed) + 1;
        if ran.is_multiple_of((self.tasks / 10).max(1)) {
            self.tenths.lock().expect("nobody panics").push(Instant::now());
        }
        if ran == self.tasks {
            self.all.notify_one();
        }
    }

    /// How much longer the last fifth took than the second one: the first has the start in it.
    fn slowdown(&self, start: Instant) -> f64 {
        let mut tenths = self.tenths.lock().expect("nobody panics").clone();
        tenths.sort_unstable();
        tenths.insert(0, start);
        let between = |from: usize, to: usize| (tenths[to] - tenths[from]).as_secs_f64();
        if tenths.len() < 11 { 1.0 } else { between(8, 10) / between(2, 4) }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let test = arguments.iter().any(|argument| argument == "--test");
    let parts: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let Ok(url) = std::env::var("PG_DATABASE_URL") else {
        return println!("PG_DATABASE_URL is not set: nothing is measured");
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let schema = Schema::new(&url);
    let asked = |part: &str| parts.is_empty() || parts.iter().any(|asked| *asked == part);
    if asked("enqueue") {
        for (tasks, transactions) in [(1, 200), (1_000, 10)] {
            let (slices, transactions) = if test { (1, 1) } else { (15, transactions) };
            enqueue(&schema, slices, transactions, tasks);
            runtime.block_on(enqueue_async(&schema, slices, transactions, tasks));
        }
    }
    if asked("commit") {
        let (slices, time) = if test { (1, 0) } else { (31, 300) };
        for connections in [1, 4, 16, 64] {
            commit(&schema, slices, Duration::from_millis(time), connections);
        }
    }
    let (slices, tasks) = if test { (1, 1_000) } else { (5, 100_000) };
    if asked("drain") {
        runtime.block_on(drain(&schema, slices, tasks));
    }
    if asked("keys") {
        runtime.block_on(keys(&schema, if test { 1_000 } else { 60_000 }));
    }
    if asked("wake") {
        runtime.block_on(wake(&schema, if test { 3 } else { 500 }));
    }
    if asked("idle") {
        runtime.block_on(idle(&schema, Duration::from_secs(if test { 1 } else { 10 })));
    }
    if asked("floor") {
        // So many that what is dead makes itself felt.
        let (slices, tasks) = if test { (1, tasks) } else { (3, 600_000) };
        runtime.block_on(floor(&schema, slices, tasks));
    }
}

/// A transaction with so many tasks, and one with an INSERT of as many rows by hand, which notifies
/// nobody.
fn enqueue(schema: &Schema, slices: usize, transactions: u32, tasks: i64) {
    let mut bare = schema.connect();
    let mut deferred = DeferredConnection::new(schema.connect());
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for _ in 0..slices {
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            bare.transaction(|conn| insert_by_hand(tasks).execute(conn)).expect("commit");
        }
        theirs.push(start.elapsed() / transactions);
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            atomic!(deferred, -> QueryResult<()>, {
                for number in 0..tasks {
                    noop(number);
                }
                Ok(())
            })
            .expect("commit");
        }
        mine.push(start.elapsed() / transactions);
        assert_eq!(schema.tasks(), tasks * i64::from(transactions));
    }
    print_rates(&format!("enqueue, {tasks} a transaction, sync"), tasks, theirs, mine);
}

async fn enqueue_async(schema: &Schema, slices: usize, transactions: u32, tasks: i64) {
    let mut bare = schema.connect_async().await;
    let mut deferred = AsyncDeferredConnection::new(schema.connect_async().await);
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    for _ in 0..slices {
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            let inserted =
                bare.transaction(async |conn| diesel_async::RunQueryDsl::execute(insert_by_hand(tasks), conn).await);
            inserted.await.expect("commit");
        }
        theirs.push(start.elapsed() / transactions);
        schema.empty();
        let start = Instant::now();
        for _ in 0..transactions {
            let conn = &mut deferred;
            atomic!(conn, -> QueryResult<()>, async {
                for number in 0..tasks {
                    noop(number);
                }
                Ok(())
            })
            .await
            .expect("commit");
        }
        mine.push(start.elapsed() / transactions);
        assert_eq!(schema.tasks(), tasks * i64::from(transactions));
    }
    print_rates(&format!("enqueue, {tasks} a transaction, async"), tasks, theirs, mine);
}

/// Commits a second of so many connections, one call each: of calls that are due, which workers are
/// told of, and of calls for tomorrow, which nobody is told of.
fn commit(schema: &Schema, slices: usize, time: Duration, connections: usize) {
    let mut conns: Vec<_> = (0..connections).map(|_| DeferredConnection::new(schema.connect())).collect();
    let mut listener = schema.connect();
    listener.batch_execute("LISTEN deferred_tasks").expect("it listens");
    let mut run = |delay: Duration| {
        schema.empty();
        let barrier = Barrier::new(connections);
        let barrier = &barrier;
        let commits = std::thread::scope(|threads| {
            let counts = conns.iter_mut().map(|conn| {
                threads.spawn(move || {
                    barrier.wait();
                    let (start, mut commits) = (Instant::now(), 0_i64);
                    while commits == 0 || start.elapsed() < time {
                        atomic!(conn, -> QueryResult<()>, {
                            if delay.is_zero() {
                                noop(0);
                            } else {
                                noop(0).delay(delay);
                            }
                            Ok(())
                        })
                        .expect("commit");
                        commits += 1;
                    }
                    commits
                })
            });
            let counts: Vec<_> = counts.collect();
            counts.into_iter().map(|count| count.join().expect("it committed")).sum::<i64>()
        });
        assert_eq!(schema.tasks(), commits);
        commits as f64 / time.as_secs_f64().max(0.1)
    };
    let (mut later, mut due) = (Vec::new(), Vec::new());
    let mut notifications = 0;
    for slice in 0..slices {
        // The disk is not the same from one moment to the next: neither side is always the first.
        for is_due in [slice % 2 == 0, slice % 2 == 1] {
            if is_due {
                due.push(run(Duration::ZERO));
            } else {
                later.push(run(Duration::from_secs(24 * 60 * 60)));
            }
        }
        listener.batch_execute("SELECT 1").expect("something to read");
        notifications = listener.notifications_iter().count();
    }
    let of_all = due.iter().sum::<f64>() / later.iter().sum::<f64>();
    let ratio = |(due, later): (&f64, &f64)| due / later;
    let ratios: Vec<_> = due.iter().zip(&later).map(ratio).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    println!(
        "commits of {connections} connections: for later {:.0}/s, due {:.0}/s, ratio {:.2} \
         ({least:.2}–{most:.2}), of all slices {of_all:.2}; \
         {notifications} notifications in the last slice",
        median(later),
        median(due),
        median(ratios)
    );
}

/// As one would write it for one kind of task: what is the same for all of them is not sent.
fn insert_by_hand(tasks: i64) -> ByHand {
    const NOW: &str = "(SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now";
    const INTO: &str = "INSERT INTO deferred_tasks (id, task, queue, payload, priority, max_attempts, state, run_at_ms, enqueued_at_ms)";
    let payload = |number| format!("{{\"number\":{number}}}");
    let insert = ByHand::new(INTO);
    if tasks == 1 {
        let insert =
            insert.sql(" SELECT ").bind(Value::Id(new_id())).sql(", 'noop', 'bench', ").bind(Value::Text(payload(0)));
        return insert.sql(", 0, 20, 'ready', now.ms, now.ms FROM ").sql(NOW);
    }
    let insert = insert.sql(" SELECT c.id, 'noop', 'bench', c.payload, 0, 20, 'ready', now.ms, now.ms FROM unnest(");
    let insert = insert.bind(Value::Ids((0..tasks).map(|_| new_id()).collect())).sql(", ");
    insert.bind(Value::Texts((0..tasks).map(payload).collect())).sql(") AS c(id, payload) CROSS JOIN ").sql(NOW)
}

fn new_id() -> TaskId {
    Uuid::now_v7().into()
}

/// A statement with values, which is prepared once for each text. `sql_query` prepares its own each
/// time.
struct ByHand(Vec<Piece>);

enum Piece {
    Sql(&'static str),
    Bind(Value),
}

enum Value {
    Id(TaskId),
    Text(String),
    Ids(Vec<TaskId>),
    Texts(Vec<String>),
}

impl ByHand {
    fn new(sql: &'static str) -> Self {
        Self(vec![Piece::Sql(sql)])
    }

    fn sql(mut self, sql: &'static str) -> Self {
        self.0.push(Piece::Sql(sql));
        self
    }

    fn bind(mut self, value: Value) -> Self {
        self.0.push(Piece::Bind(value));
        self
    }
}

impl QueryFragment<Pg> for ByHand {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for piece in &self.0 {
            match piece {
                Piece::Sql(sql) => out.push_sql(sql),
                Piece::Bind(Value::Id(id)) => out.push_bind_param::<SqlUuid, _>(id)?,
                Piece::Bind(Value::Text(text)) => out.push_bind_param::<Text, _>(text)?,
                Piece::Bind(Value::Ids(ids)) => out.push_bind_param::<Array<SqlUuid>, _>(ids)?,
                Piece::Bind(Value::Texts(texts)) => out.push_bind_param::<Array<Text>, _>(texts)?,
            }
        }
        Ok(())
    }
}

impl QueryId for ByHand {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for ByHand {
    type SqlType = (SqlUuid, Text);
}

impl<C> RunQueryDsl<C> for ByHand {}

/// So many tasks that do nothing, by a worker, and by a loop by hand that claims and deletes 1,000
/// at a time.
async fn drain(schema: &Schema, slices: usize, tasks: u64) {
    let (mut waits, mut does_not, mut mine) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..slices {
        for (commit, times) in [("on", &mut waits), ("off", &mut does_not)] {
            schema.fill(tasks);
            let progress = Progress::of(tasks);
            times.push(drain_by_hand(schema, commit, &progress));
            assert_eq!(schema.tasks(), 0);
        }
        schema.fill(tasks);
        let progress = Progress::of(tasks);
        mine.push(drain_by_worker(schema, &progress).await);
        assert_eq!(schema.tasks(), 0);
    }
    let tasks = i64::try_from(tasks).expect("few");
    print_rates(&format!("drain of {tasks}, by hand waiting for the disk"), tasks, waits, mine.clone());
    print_rates(&format!("drain of {tasks}, by hand not waiting either"), tasks, does_not, mine);
}

fn drain_by_hand(schema: &Schema, synchronous_commit: &str, progress: &Progress) -> Duration {
    let start = Instant::now();
    let mut conn = schema.connect();
    conn.batch_execute(&format!("SET synchronous_commit = {synchronous_commit}")).expect("a setting");
    let worker = new_id();
    loop {
        let claim = ByHand::new("UPDATE deferred_tasks SET state = 'running', attempts = attempts + 1, worker = ")
            .bind(Value::Id(worker))
            .sql(
                ", lease_until_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 30000 \
                 WHERE id = ANY(ARRAY(SELECT id FROM deferred_tasks WHERE state = 'ready' AND queue = ",
            )
            .bind(Value::Text("bench".to_owned()))
            .sql(" ORDER BY priority, run_at_ms, id LIMIT 1000 FOR UPDATE SKIP LOCKED)) RETURNING id, payload");
        let claimed: Vec<(TaskId, String)> = claim.load(&mut conn).expect("a claim");
        if claimed.is_empty() {
            return start.elapsed();
        }
        let ids = claimed.into_iter().map(|(id, payload)| {
            assert!(payload.starts_with('{'));
            progress.ran();
            id
        });
        let delete = ByHand::new("DELETE FROM deferred_tasks WHERE id = ANY(").bind(Value::Ids(ids.collect())).sql(")");
        delete.execute(&mut conn).expect("an end");
    }
}

/// A backlog of calls of so many keys, beside the same calls without any. They are committed in
/// transactions of ten, so that most of them do not know of each other. Prints tasks a second and the
/// ratio.
async fn keys(schema: &Schema, tasks: u64) {
    let mut without = 0.0;
    for keys in [0, tasks, 100, 10, 1] {
        schema.empty();
        let mut conn = DeferredConnection::new(schema.connect());
        // How long the backlog takes to be written is not what is measured.
        conn.batch_execute("SET synchronous_commit = off").expect("a setting");
        for transaction in 0..tasks / 10 {
            atomic!(conn, -> QueryResult<()>, {
                for at in 0..10 {
                    let number = transaction * 10 + at;
                    let call = noop(i64::try_from(number).expect("few"));
                    if keys == 0 { call } else { call.key(format!("key {}", number % keys)) };
                }
                Ok(())
            })
            .expect("commit");
        }
        schema.connect().batch_execute("VACUUM ANALYZE deferred_tasks").expect("tidy up");
        let progress = Progress::of(tasks);
        let took = drain_by_worker(schema, &progress).await;
        assert_eq!(schema.tasks(), 0);
        let rate = tasks as f64 / took.as_secs_f64();
        if keys == 0 {
            without = rate;
        }
        println!("{:<44} {rate:>9.0}/s   ratio {:.2}", format!("drain of {tasks} with {keys} keys"), rate / without);
    }
}

/// From before it connects until it has ended.
async fn drain_by_worker(schema: &Schema, progress: &Arc<Progress>) -> Duration {
    let worker = schema.worker().state(Arc::clone(progress)).queue("bench", CONCURRENCY).build().expect("a worker");
    let start = Instant::now();
    let report = worker.run(progress.all.notified()).await.expect("it can work");
    assert_eq!((report.ran, report.released), (progress.tasks, 0));
    start.elapsed()
}

/// From the end of COMMIT to a task's first line, where the worker is idle: in the process of the
/// worker, and in another one.
async fn wake(schema: &Schema, times: usize) {
    schema.empty();
    let (sender, mut arrivals) = mpsc::unbounded_channel::<Instant>();
    let working = Working::start(schema.worker().state(sender).queue("wake", CONCURRENCY));
    let mut deferred = DeferredConnection::new(schema.connect());
    let committed = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&committed);
    deferred.set_instrumentation(move |event: InstrumentationEvent<'_>| {
        if let InstrumentationEvent::FinishQuery { query, .. } = event
            && query.to_string().contains("COMMIT")
        {
            *seen.lock().expect("nobody panics") = Some(Instant::now());
        }
    });
    let mut here = Vec::new();
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(5)).await;
        atomic!(deferred, -> QueryResult<()>, {
            arrive();
            Ok(())
        })
        .expect("commit");
        let arrived = arrivals.recv().await.expect("it works");
        let committed = committed.lock().expect("nobody panics").take().expect("it was seen");
        here.push(arrived.saturating_duration_since(committed));
    }
    print_times("COMMIT to first line, same process", here);

    // On a connection that is none of ours, so that nothing but the notification tells the worker.
    let mut plain = schema.connect();
    let mut elsewhere = Vec::new();
    for _ in 0..times {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let insert = ByHand::new(
            "INSERT INTO deferred_tasks (id, task, queue, payload, max_attempts, run_at_ms, enqueued_at_ms) SELECT ",
        );
        let insert = insert.bind(Value::Id(new_id())).sql(", 'arrive', 'wake', '{}', 20, 0, 0");
        plain.batch_execute("BEGIN").expect("begun");
        insert.execute(&mut plain).expect("an insert");
        plain.batch_execute("COMMIT; NOTIFY deferred_tasks").expect("committed");
        let committed = Instant::now();
        let arrived = arrivals.recv().await.expect("it works");
        elsewhere.push(arrived.saturating_duration_since(committed));
    }
    print_times("COMMIT to first line, by NOTIFY only", elsewhere);
    working.stop().await;
}

/// What a worker without anything to do costs.
async fn idle(schema: &Schema, time: Duration) {
    schema.empty();
    let statements = Arc::new(AtomicU64::new(0));
    let (url, counter) = (schema.url.clone(), Arc::clone(&statements));
    let builder = Worker::<AsyncPgConnection>::builder_with(move || {
        let (url, counter) = (url.clone(), Arc::clone(&counter));
        async move {
            let mut conn = AsyncPgConnection::establish(&url).await?;
            conn.set_instrumentation(move |event: InstrumentationEvent<'_>| {
                if let InstrumentationEvent::StartQuery { .. } = event {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
            Ok(conn)
        }
    });
    let (sender, _arrivals) = mpsc::unbounded_channel::<Instant>();
    let working = Working::start(builder.state(Progress::of(1)).state(sender).queue("bench", CONCURRENCY));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, cpu, start) = (statements.load(Ordering::Relaxed), cpu_time(), Instant::now());
    tokio::time::sleep(time).await;
    let sent = statements.load(Ordering::Relaxed) - before;
    let (cpu, took) = (cpu_time().saturating_sub(cpu), start.elapsed().as_secs_f64());
    println!(
        "idle worker: {:.2} statements a second, {:.3} % of a core",
        sent as f64 / took,
        100.0 * cpu.as_secs_f64() / took
    );
    working.stop().await;
}

/// What this process has used so far, where Linux tells.
fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let spent = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        spent.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// A drain while a long transaction elsewhere keeps every dead row: how much slower the last fifth
/// is than the second one.
async fn floor(schema: &Schema, slices: usize, tasks: u64) {
    let (mut theirs, mut mine) = (Vec::new(), Vec::new());
    let (mut their_slowdown, mut my_slowdown) = (Vec::new(), Vec::new());
    let mut called = Vec::new();
    for _ in 0..slices {
        schema.fill(tasks);
        let long = schema.long_transaction();
        let (progress, start) = (Progress::of(tasks), Instant::now());
        theirs.push(drain_by_hand(schema, "off", &progress));
        their_slowdown.push(progress.slowdown(start));
        drop(long);
        schema.fill(tasks);
        let long = schema.long_transaction();
        let (progress, start) = (Progress::of(tasks), Instant::now());
        mine.push(drain_by_worker(schema, &progress).await);
        my_slowdown.push(progress.slowdown(start));
        drop(long);
        schema.fill(tasks);
        let long = schema.long_transaction();
        called.push(drain_while_called(schema, &Progress::of(tasks)).await);
        drop(long);
    }
    let called_ratio = called.iter().zip(&mine).map(|(called, mine)| called.as_secs_f64() / mine.as_secs_f64());
    let called_ratio = median(called_ratio.collect());
    let tasks = i64::try_from(tasks).expect("few");
    print_rates(
        &format!("drain of {tasks} beside a long transaction, by hand not waiting either"),
        tasks,
        theirs,
        mine,
    );
    println!(
        "    the last fifth took by hand {:.2} times as long as the second, ours {:.2}",
        median(their_slowdown),
        median(my_slowdown)
    );
    println!("    while somebody calls every 2 ms ours took {called_ratio:.2} times as long");
}

/// [`drain_by_worker`], while another connection goes on calling: what it calls may have to start
/// before what was taken last.
async fn drain_while_called(schema: &Schema, progress: &Arc<Progress>) -> Duration {
    let over = Arc::new(AtomicBool::new(false));
    let (until, mut conn) = (Arc::clone(&over), DeferredConnection::new(schema.connect()));
    let caller = tokio::task::spawn_blocking(move || {
        while !until.load(Ordering::Relaxed) {
            atomic!(conn, -> QueryResult<()>, {
                noop(0);
                Ok(())
            })
            .expect("commit");
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let worker = schema.worker().state(Arc::clone(progress)).queue("bench", CONCURRENCY).build().expect("a worker");
    let start = Instant::now();
    worker.run(progress.all.notified()).await.expect("it can work");
    let took = start.elapsed();
    over.store(true, Ordering::Relaxed);
    caller.await.expect("it called");
    took
}

/// A schema with the tables, which lives as long as this value.
struct Schema {
    /// Of this schema.
    url: String,
    /// To drop it by.
    server: String,
    name: String,
}

impl Schema {
    fn new(server: &str) -> Self {
        let name = format!("deferred_bench_{}", std::process::id());
        let mut conn = PgConnection::establish(server).expect("connect");
        conn.batch_execute(&format!("CREATE SCHEMA {name}")).expect("a schema");
        let separator = if server.contains('?') { '&' } else { '?' };
        // diesel-async does not encrypt by itself, libpq does where the server can: here neither
        // does.
        let plain = if server.contains("sslmode") { "" } else { "&sslmode=disable" };
        let url = format!("{server}{separator}options=-csearch_path%3D{name}{plain}");
        let schema = Self { url, server: server.to_owned(), name };
        schema.connect().run_pending_migrations(diesel_deferred::migrations()).expect("the tables");
        schema
    }

    fn connect(&self) -> PgConnection {
        PgConnection::establish(&self.url).expect("connect")
    }

    async fn connect_async(&self) -> AsyncPgConnection {
        AsyncPgConnection::establish(&self.url).await.expect("connect")
    }

    fn worker(&self) -> WorkerBuilder<AsyncPgConnection> {
        Worker::builder(self.url.clone())
    }

    fn empty(&self) {
        self.connect().batch_execute("TRUNCATE deferred_tasks").expect("empty");
    }

    /// As many tasks, on a table as after a while of rest: what the server would tidy up is tidied
    /// up, so that it hits neither side.
    fn fill(&self, tasks: u64) {
        self.empty();
        let mut conn = self.connect();
        let mut rest = i64::try_from(tasks).expect("few");
        while rest > 0 {
            insert_by_hand(rest.min(10_000)).execute(&mut conn).expect("rows");
            rest -= 10_000;
        }
        conn.batch_execute("VACUUM ANALYZE deferred_tasks").expect("tidy up");
        // Not everybody may.
        let _ = conn.batch_execute("CHECKPOINT");
    }

    fn tasks(&self) -> i64 {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        let count = diesel::sql_query("SELECT count(*) FROM deferred_tasks").get_result::<Count>(&mut self.connect());
        count.expect("a number").count
    }

    /// A transaction that stays open, and goes on seeing the rows of this moment.
    fn long_transaction(&self) -> PgConnection {
        let mut conn = self.connect();
        conn.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM deferred_tasks")
            .expect("a snapshot");
        conn
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let mut conn = PgConnection::establish(&self.server).expect("connect");
        conn.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.name)).expect("dropped");
    }
}

/// A worker in the background.
struct Working {
    stop: oneshot::Sender<()>,
    worker: tokio::task::JoinHandle<()>,
}

impl Working {
    fn start(builder: WorkerBuilder<AsyncPgConnection>) -> Self {
        let worker = builder.build().expect("a worker");
        let (stop, stopped) = oneshot::channel::<()>();
        let worker = tokio::spawn(async move {
            worker.run(async { drop(stopped.await) }).await.expect("it can work");
        });
        Self { stop, worker }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.worker.await.expect("it stopped");
    }
}

/// Of so many tasks each.
fn print_rates(what: &str, tasks: i64, theirs: Vec<Duration>, mine: Vec<Duration>) {
    let rate = |time: Duration| tasks as f64 / time.as_secs_f64();
    let pairs = theirs.iter().zip(&mine);
    let ratios: Vec<_> = pairs.map(|(theirs, mine)| theirs.as_secs_f64() / mine.as_secs_f64()).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    println!(
        "{what}: by hand {:.0}/s, ours {:.0}/s, ratio {:.2} ({least:.2}–{most:.2})",
        rate(median(theirs)),
        rate(median(mine)),
        median(ratios)
    );
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("{what}: median {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}
