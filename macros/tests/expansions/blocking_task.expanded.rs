///A captured call of [`resize`](fn@resize).
#[allow(non_camel_case_types)]
#[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run()` to run it now"]
struct resize {
    path: PathBuf,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
}
#[track_caller]
fn resize(path: PathBuf) -> resize {
    resize {
        path,
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
    }
}
impl ::diesel_deferred::__private_0_1_0::Task for resize {
    type Output = io::Result<()>;
    const NAME: &'static str = "avatars.resize";
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        let call = self;
        ::diesel_deferred::__private_0_1_0::Receiver::receive(
            receiver,
            call,
            ::diesel_deferred::__private_0_1_0::Blocking(|
                call: ::diesel_deferred::__private_0_1_0::Taken<resize>,
                _: &::diesel_deferred::__private_0_1_0::States|
            {
                ::core::option::Option::Some(
                    <resize>::run(::diesel_deferred::__private_0_1_0::Taken::call(call)),
                )
            }),
        )
    }
    fn call_site(&self) -> &'static ::core::panic::Location<'static> {
        ::diesel_deferred::__private_0_1_0::CallSite::location(&self.__call_site)
    }
    fn give_up(self) {
        ::diesel_deferred::__private_0_1_0::CallSite::silence(self.__call_site);
    }
    fn show_arguments(&self, f: &mut ::diesel_deferred::__private_0_1_0::Shows<'_>) {
        use ::diesel_deferred::__private_0_1_0::Opaque as _;
        ::diesel_deferred::__private_0_1_0::Shown("path: ", &self.path).write(f);
    }
}
impl resize {
    ///Runs the task now, on this thread.
    fn run(self) -> io::Result<()> {
        #[allow(clippy::missing_const_for_fn)]
        fn __deferred_body(path: PathBuf) -> io::Result<()> {
            shrink(&path)
        }
        let Self { path, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body(path)
    }
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
    ///Runs the task on a thread for blocking work, after the outermost commit, or from now where no transaction is open.
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
    #[doc(hidden)]
    fn delay<__Delay>(self, _: __Delay) -> Self
    where
        <Self as ::diesel_deferred::__private_0_1_0::Argument<
            __Delay,
        >>::Type: ::diesel_deferred::__private_0_1_0::IsDurable,
    {
        self
    }
}
impl ::core::fmt::Debug for resize {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
