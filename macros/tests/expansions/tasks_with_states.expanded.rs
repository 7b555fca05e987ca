///A captured call of [`send_receipt`](fn@send_receipt).
#[allow(non_camel_case_types)]
#[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run(…).await` to run it now"]
struct send_receipt {
    order: i64,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
}
#[track_caller]
fn send_receipt(order: i64) -> send_receipt {
    send_receipt {
        order,
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
    }
}
impl ::diesel_deferred::__private_0_1_0::Task for send_receipt {
    type Output = Result<(), MailError>;
    const NAME: &'static str = ::core::concat!(
        ::core::module_path!(), "::", "send_receipt"
    );
    const STATES: &'static [::diesel_deferred::__private_0_1_0::Required] = &[
        ::diesel_deferred::__private_0_1_0::Required::cloned::<Mailer>(),
        ::diesel_deferred::__private_0_1_0::Required::shared::<Config>(),
    ];
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        let call = self;
        ::diesel_deferred::__private_0_1_0::Receiver::receive(
            receiver,
            call,
            ::diesel_deferred::__private_0_1_0::Spawned(|
                call: ::diesel_deferred::__private_0_1_0::Taken<send_receipt>,
                states: &::diesel_deferred::__private_0_1_0::States|
            {
                let state_0 = ::diesel_deferred::__private_0_1_0::States::cloned::<
                    Mailer,
                >(states)?;
                let state_1 = ::diesel_deferred::__private_0_1_0::States::shared::<
                    Config,
                >(states)?;
                ::core::option::Option::Some(
                    ::diesel_deferred::__private_0_1_0::spawnable(async move {
                        <send_receipt>::run(
                                ::diesel_deferred::__private_0_1_0::Taken::call(call),
                                state_0,
                                &*state_1,
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
        ::diesel_deferred::__private_0_1_0::Shown("order: ", &self.order).write(f);
    }
}
impl send_receipt {
    ///The future of the task's body, to be awaited: runs nothing by itself.
    async fn run(self, mailer: Mailer, config: &Config) -> Result<(), MailError> {
        #[allow(clippy::missing_const_for_fn)]
        async fn __deferred_body(
            mailer: Mailer,
            order: i64,
            config: &Config,
        ) -> Result<(), MailError> {
            mailer.receipt(order, config).await
        }
        let Self { order, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body(mailer, order, config).await
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
impl ::core::fmt::Debug for send_receipt {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
///A captured call of [`evict`](fn@evict).
#[allow(non_camel_case_types)]
#[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run(…)` to run it now"]
struct evict {
    key: <str as ::std::borrow::ToOwned>::Owned,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
}
#[track_caller]
fn evict(key: &str) -> evict {
    evict {
        key: <str as ::std::borrow::ToOwned>::to_owned(key),
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
    }
}
impl ::diesel_deferred::__private_0_1_0::Task for evict {
    type Output = ();
    const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", "evict");
    const STATES: &'static [::diesel_deferred::__private_0_1_0::Required] = &[
        ::diesel_deferred::__private_0_1_0::Required::cloned::<Cache>(),
        ::diesel_deferred::__private_0_1_0::Required::shared::<Config>(),
    ];
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        let call = self;
        ::diesel_deferred::__private_0_1_0::Receiver::receive(
            receiver,
            call,
            ::diesel_deferred::__private_0_1_0::Here(|
                call: ::diesel_deferred::__private_0_1_0::Taken<evict>,
                states: &::diesel_deferred::__private_0_1_0::States|
            {
                let state_0 = ::diesel_deferred::__private_0_1_0::States::cloned::<
                    Cache,
                >(states)?;
                let state_1 = ::diesel_deferred::__private_0_1_0::States::shared::<
                    Config,
                >(states)?;
                ::core::option::Option::Some(
                    <evict>::run(
                        ::diesel_deferred::__private_0_1_0::Taken::call(call),
                        state_0,
                        &*state_1,
                    ),
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
        ::diesel_deferred::__private_0_1_0::Shown("key: ", &self.key).write(f);
    }
}
impl evict {
    ///Runs the task now.
    fn run(self, cache: Cache, config: &Config) -> () {
        #[allow(clippy::missing_const_for_fn)]
        fn __deferred_body(key: &str, mut cache: Cache, config: &Config) {
            cache.remove(key, config);
        }
        let Self { key, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body(::core::borrow::Borrow::<str>::borrow(&key), cache, config)
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
impl ::core::fmt::Debug for evict {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
