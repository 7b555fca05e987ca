#[allow(non_camel_case_types, dead_code, missing_docs)]
#[derive(Debug)]
struct count {
    __stub: (),
}
#[allow(unused, clippy::all)]
const _: () = {
    fn count(seen: &mut u64) {
        *seen += 1;
    }
};
#[allow(unused_variables, dead_code, missing_docs, clippy::all)]
fn count(seen: &mut u64) -> count {
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
    ///Runs the task now.
    fn run(self) {}
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
    ///Runs the task after the outermost commit, or now where no transaction is open.
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
    "a task runs when the caller's variable is gone, so that it cannot change it; take it by value: `seen: u64`"
}
