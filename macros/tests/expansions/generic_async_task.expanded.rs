///A captured call of [`publish`](fn@publish).
#[allow(non_camel_case_types)]
#[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run(…).await` to run it now"]
struct publish<E: Event>
where
    E: Send + 'static,
{
    event: E,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
    __generics: ::core::marker::PhantomData<fn() -> (::core::marker::PhantomData<E>,)>,
}
#[track_caller]
fn publish<E: Event>(event: E) -> publish<E>
where
    E: Send + 'static,
{
    publish {
        event,
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
        __generics: ::core::marker::PhantomData,
    }
}
impl<E: Event> ::diesel_deferred::__private_0_1_0::Task for publish<E>
where
    E: Send + 'static,
{
    type Output = ();
    const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", "publish");
    const STATES: &'static [::diesel_deferred::__private_0_1_0::Required] = &[
        ::diesel_deferred::__private_0_1_0::Required::shared::<Broker<E>>(),
    ];
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        fn capture_0<E: Event, __Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
            call: publish<E>,
            receiver: __Receiver,
        ) -> __Receiver::Output
        where
            E: Send + 'static,
            <E as ::diesel_deferred::__private_0_1_0::Argument<
                __Receiver,
            >>::Type: ::core::marker::Send + 'static,
        {
            ::diesel_deferred::__private_0_1_0::Receiver::receive(
                receiver,
                call,
                ::diesel_deferred::__private_0_1_0::Spawned(|
                    call: ::diesel_deferred::__private_0_1_0::Taken<publish<E>>,
                    states: &::diesel_deferred::__private_0_1_0::States|
                {
                    let state_0 = ::diesel_deferred::__private_0_1_0::States::shared::<
                        Broker<E>,
                    >(states)?;
                    ::core::option::Option::Some(
                        ::diesel_deferred::__private_0_1_0::spawnable(async move {
                            <publish<
                                E,
                            >>::run(
                                    ::diesel_deferred::__private_0_1_0::Taken::call(call),
                                    &*state_0,
                                )
                                .await
                        }),
                    )
                }),
            )
        }
        let call = self;
        capture_0(call, receiver)
    }
    fn call_site(&self) -> &'static ::core::panic::Location<'static> {
        ::diesel_deferred::__private_0_1_0::CallSite::location(&self.__call_site)
    }
    fn give_up(self) {
        ::diesel_deferred::__private_0_1_0::CallSite::silence(self.__call_site);
    }
    fn show_arguments(&self, f: &mut ::diesel_deferred::__private_0_1_0::Shows<'_>) {
        use ::diesel_deferred::__private_0_1_0::Opaque as _;
        ::diesel_deferred::__private_0_1_0::Shown("event: ", &self.event).write(f);
    }
}
impl<E: Event> publish<E>
where
    E: Send + 'static,
{
    ///The future of the task's body, to be awaited: runs nothing by itself.
    async fn run(self, broker: &Broker<E>) -> () {
        #[allow(clippy::missing_const_for_fn)]
        async fn __deferred_body<E: Event>(event: E, broker: &Broker<E>)
        where
            E: Send + 'static,
        {
            broker.publish(event).await;
        }
        let Self { event, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body::<E>(event, broker).await
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
impl<E: Event> ::core::fmt::Debug for publish<E>
where
    E: Send + 'static,
{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
