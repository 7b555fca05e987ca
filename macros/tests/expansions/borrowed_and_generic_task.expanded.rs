///A captured call of [`send`](fn@send).
#[allow(non_camel_case_types)]
#[must_use = "a task runs only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`, or `.run()` to run it now"]
struct send<T: Display + Send + 'static>
where
    T: Debug,
{
    mailer: <Mailer as ::std::borrow::ToOwned>::Owned,
    subject: <str as ::std::borrow::ToOwned>::Owned,
    body: T,
    __call_site: crate::deferred::__private_0_1_0::CallSite<Self>,
    __generics: ::core::marker::PhantomData<fn() -> (::core::marker::PhantomData<T>,)>,
}
#[track_caller]
fn send<T: Display + Send + 'static>(mailer: &Mailer, subject: &str, body: T) -> send<T>
where
    T: Debug,
{
    send {
        mailer: <Mailer as ::std::borrow::ToOwned>::to_owned(mailer),
        subject: <str as ::std::borrow::ToOwned>::to_owned(subject),
        body,
        __call_site: crate::deferred::__private_0_1_0::CallSite::of_caller(),
        __generics: ::core::marker::PhantomData,
    }
}
impl<T: Display + Send + 'static> crate::deferred::__private_0_1_0::Task for send<T>
where
    T: Debug,
{
    type Output = Result<(), MailError>;
    const NAME: &'static str = "mail.send";
    fn hand_over<__Receiver: crate::deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        fn capture_0<
            T: Display + Send + 'static,
            __Receiver: crate::deferred::__private_0_1_0::Receiver,
        >(call: send<T>, receiver: __Receiver) -> __Receiver::Output
        where
            T: Debug,
            <T as crate::deferred::__private_0_1_0::Argument<
                __Receiver,
            >>::Type: ::core::marker::Send + 'static,
        {
            let _: ::core::marker::PhantomData<
                <Mailer as ::std::borrow::ToOwned>::Owned,
            >;
            crate::deferred::__private_0_1_0::Receiver::receive(
                receiver,
                call,
                crate::deferred::__private_0_1_0::Alone(<send<T>>::run),
            )
        }
        let call = self;
        capture_0(call, receiver)
    }
    fn call_site(&self) -> &'static ::core::panic::Location<'static> {
        crate::deferred::__private_0_1_0::CallSite::location(&self.__call_site)
    }
    fn give_up(self) {
        crate::deferred::__private_0_1_0::CallSite::silence(self.__call_site);
    }
    fn show_arguments(&self, f: &mut crate::deferred::__private_0_1_0::Shows<'_>) {
        use crate::deferred::__private_0_1_0::Opaque as _;
        crate::deferred::__private_0_1_0::Shown("mailer: ", &self.mailer).write(f);
        crate::deferred::__private_0_1_0::Shown(", subject: ", &self.subject).write(f);
        crate::deferred::__private_0_1_0::Shown(", body: ", &self.body).write(f);
    }
}
impl<T: Display + Send + 'static> send<T>
where
    T: Debug,
{
    ///Runs the task now.
    fn run(self) -> Result<(), MailError> {
        #[allow(clippy::missing_const_for_fn)]
        #[tracing::instrument]
        fn __deferred_body<T: Display + Send + 'static>(
            mailer: &Mailer,
            subject: &str,
            body: T,
        ) -> Result<(), MailError>
        where
            T: Debug,
        {
            mailer.send(subject, body)
        }
        let Self { mailer, subject, body, __call_site, .. } = self;
        crate::deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body::<
            T,
        >(
            ::core::borrow::Borrow::<Mailer>::borrow(&mailer),
            ::core::borrow::Borrow::<str>::borrow(&subject),
            body,
        )
    }
    /// Drops the call on purpose: it neither runs nor is registered.
    fn forget(self) {
        crate::deferred::__private_0_1_0::Task::give_up(self);
    }
    /// Runs the task after the outermost commit; `Err(NotInTransaction)` outside of a
    /// transaction.
    fn after_commit(
        self,
        conn: &mut impl crate::deferred::__private_0_1_0::AfterCommit,
    ) -> crate::deferred::__private_0_1_0::QueryResult<()> {
        crate::deferred::__private_0_1_0::after_commit(self, conn)
    }
    ///Runs the task after the outermost commit, or now where no transaction is open.
    fn after_commit_or_now(
        self,
        conn: &mut impl crate::deferred::__private_0_1_0::AfterCommit,
    ) -> ::core::result::Result<(), crate::deferred::__private_0_1_0::BoxError> {
        crate::deferred::__private_0_1_0::after_commit_or_now(self, conn)
    }
    /// Runs the task when what it belongs to is rolled back; `Err(NotInTransaction)` outside of
    /// a transaction.
    fn after_rollback(
        self,
        conn: &mut impl crate::deferred::__private_0_1_0::AfterCommit,
    ) -> crate::deferred::__private_0_1_0::QueryResult<()> {
        crate::deferred::__private_0_1_0::after_rollback(self, conn)
    }
    #[doc(hidden)]
    fn delay<__Delay>(self, _: __Delay) -> Self
    where
        <Self as crate::deferred::__private_0_1_0::Argument<
            __Delay,
        >>::Type: crate::deferred::__private_0_1_0::IsDurable,
    {
        self
    }
}
impl<T: Display + Send + 'static> ::core::fmt::Debug for send<T>
where
    T: Debug,
{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        crate::deferred::__private_0_1_0::fmt_call(self, f)
    }
}
