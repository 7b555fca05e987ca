///A captured call of [`send_welcome`](fn@send_welcome).
#[allow(non_camel_case_types)]
#[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run().await` to run it now"]
pub struct send_welcome {
    user_id: i32,
    email: <str as ::std::borrow::ToOwned>::Owned,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
}
#[track_caller]
pub fn send_welcome(user_id: i32, email: &str) -> send_welcome {
    send_welcome {
        user_id,
        email: <str as ::std::borrow::ToOwned>::to_owned(email),
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
    }
}
impl ::diesel_deferred::__private_0_1_0::Task for send_welcome {
    type Output = Result<(), MailError>;
    const NAME: &'static str = ::core::concat!(
        ::core::module_path!(), "::", "send_welcome"
    );
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        let call = self;
        ::diesel_deferred::__private_0_1_0::Receiver::receive(
            receiver,
            call,
            ::diesel_deferred::__private_0_1_0::Spawned(|
                call: ::diesel_deferred::__private_0_1_0::Taken<send_welcome>,
                _: &::diesel_deferred::__private_0_1_0::States|
            {
                ::core::option::Option::Some(
                    ::diesel_deferred::__private_0_1_0::spawnable(async move {
                        <send_welcome>::run(
                                ::diesel_deferred::__private_0_1_0::Taken::call(call),
                            )
                            .await
                    }),
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
        ::diesel_deferred::__private_0_1_0::Shown("user_id: ", &self.user_id).write(f);
        ::diesel_deferred::__private_0_1_0::Shown(", email: ", &self.email).write(f);
    }
}
impl send_welcome {
    ///The future of the task's body, to be awaited: runs nothing by itself.
    pub async fn run(self) -> Result<(), MailError> {
        #[allow(clippy::missing_const_for_fn)]
        #[tracing::instrument]
        async fn __deferred_body(user_id: i32, email: &str) -> Result<(), MailError> {
            deliver(user_id, email).await
        }
        let Self { user_id, email, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body(user_id, ::core::borrow::Borrow::<str>::borrow(&email)).await
    }
    /// Drops the call on purpose: it neither runs nor is registered.
    pub fn forget(self) {
        ::diesel_deferred::__private_0_1_0::Task::give_up(self);
    }
    /// Runs the task after the outermost commit; `Err(NotInTransaction)` outside of a
    /// transaction.
    pub fn after_commit(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<()> {
        ::diesel_deferred::__private_0_1_0::after_commit(self, conn)
    }
    ///Spawns the task after the outermost commit, or now where no transaction is open.
    pub fn after_commit_or_now(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::core::result::Result<(), ::diesel_deferred::__private_0_1_0::BoxError> {
        ::diesel_deferred::__private_0_1_0::after_commit_or_now(self, conn)
    }
    /// Runs the task when what it belongs to is rolled back; `Err(NotInTransaction)` outside of
    /// a transaction.
    pub fn after_rollback(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<()> {
        ::diesel_deferred::__private_0_1_0::after_rollback(self, conn)
    }
    #[doc(hidden)]
    pub fn delay<__Delay>(self, _: __Delay) -> Self
    where
        <Self as ::diesel_deferred::__private_0_1_0::Argument<
            __Delay,
        >>::Type: ::diesel_deferred::__private_0_1_0::IsDurable,
    {
        self
    }
}
impl ::core::fmt::Debug for send_welcome {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
