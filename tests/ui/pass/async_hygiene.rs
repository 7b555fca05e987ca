//! Names of the user's that are also the expansion's of an async block: of traits for every type, of types, of variables.

mod shadowing {
    #![allow(dead_code, non_camel_case_types)]

    use diesel_async::RunQueryDsl as _;
    use diesel_deferred::{atomic, deferred_task};
    use diesel_deferred_tests::{Log, note};

    pub(super) type Connection = crate::AsyncConn;
    pub(super) type Outcome = ::diesel::QueryResult<()>;

    struct Statement;
    struct Result;
    struct Option;
    struct Future;
    struct Send;
    struct Box;
    struct Attempts;
    struct Open;
    struct Caught;
    struct Ok;
    struct Err;
    struct Some;
    struct None;
    mod std {}
    mod core {}
    mod alloc {}
    mod diesel {}
    fn caught() {}
    fn refused() {}
    fn drop() {}

    /// By reference, by value: whichever takes less is what the compiler finds first.
    pub(super) trait Everything: Sized {
        fn begin(&self) {}
        fn end(self) {}
        fn parts(&mut self) {}
        fn again(&self, _: bool) {}
        fn load(&self) {}
        fn run(&self) {}
        fn retries(self) {}
        fn outermost(self) {}
        fn settle(&self) {}
        fn pass(&self) {}
        fn is_err(&self) {}
        fn register(&self) {}
        fn async_builder(&self) {}
        fn receive(&self) {}
        fn hand_over(&self) {}
        fn shared(&self) {}
        fn cloned(&self) {}
        fn into_future(self) {}
        fn poll(&self) {}
    }

    impl<T> Everything for T {}

    #[deferred_task]
    async fn log_it(#[state] states: &Log, value: i32, outcome: i32, attempts: i32, open: i32, call: i32) {
        states.push(value + outcome + attempts + open + call);
    }

    pub(super) async fn shadowed(conn: &mut Connection, log: &Log, builder: u32) -> Outcome {
        let (attempts, open, outcome, result, error) = (2, 3, 4, 5, 6);
        atomic!(conn, -> Outcome, retries = builder, outermost, async {
            let registrar = 1;
            let value = attempts + open + outcome + result + error;
            registrar.begin();
            value.end();
            log.again(true);
            ::diesel::sql_query("SELECT 1").execute(conn).await?;
            log_it(value, outcome, attempts, open, registrar);
            note(log, value);
            Outcome::Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn names_of_the_expansion_are_free() -> diesel::QueryResult<()> {
    let (log, spawned) = (diesel_deferred_tests::Log::new(), diesel_deferred_tests::Log::new());
    let dispatcher = diesel_deferred::Dispatcher::builder().state(spawned.clone()).build();
    let conn = &mut crate::connect_async().await;
    conn.set_dispatcher(dispatcher.clone());
    shadowing::shadowed(conn, &log, 1).await?;
    assert!(dispatcher.shutdown(std::time::Duration::from_secs(30)).await.is_clean());
    assert_eq!((log.ran(), spawned.ran()), (vec![20], vec![30]));
    Ok(())
}
