#[allow(non_camel_case_types, dead_code, missing_docs)]
#[derive(Debug)]
struct count {
    __stub: (),
}
#[allow(unused, clippy::all)]
const _: () = {
    async fn count(seen: &Counter, by: u64) {
        seen.add(by).await;
    }
};
#[allow(unused_variables, dead_code, missing_docs, clippy::all)]
fn count(by: u64) -> count {
    count { __stub: () }
}
impl ::diesel_deferred::__private_0_1_0::Task for count {
    type Output = ();
    const NAME: &'static str = "";
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        ::diesel_deferred::__private_0_1_0::Receiver::receive(
            receiver,
            self,
            ::diesel_deferred::__private_0_1_0::Alone(|_: count| ()),
        )
    }
    fn call_site(&self) -> &'static ::core::panic::Location<'static> {
        ::core::panic::Location::caller()
    }
}
#[allow(dead_code)]
impl count {
    ///The future of the task's body, to be awaited: runs nothing by itself.
    async fn run(self, _: impl ::core::marker::Sized) {}
    /// Drops the call on purpose: it neither runs nor is registered.
    fn forget(self) {
        ::diesel_deferred::__private_0_1_0::Task::give_up(self);
    }
    /// Runs the task after the outermost commit; `Err(NotInTransaction)` outside of a
    /// transaction.
    fn after_commit(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<()> {
        ::diesel_deferred::__private_0_1_0::after_commit(self, conn)
    }
    ///Spawns the task after the outermost commit, or now where no transaction is open.
    fn after_commit_or_now(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::core::result::Result<(), ::diesel_deferred::__private_0_1_0::BoxError> {
        ::diesel_deferred::__private_0_1_0::after_commit_or_now(self, conn)
    }
    /// Runs the task when what it belongs to is rolled back; `Err(NotInTransaction)` outside of
    /// a transaction.
    fn after_rollback(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<()> {
        ::diesel_deferred::__private_0_1_0::after_rollback(self, conn)
    }
}
::core::compile_error! {
    "an `async fn` is spawned, and must not block; remove `blocking`, or remove `async` and block as you like"
}
