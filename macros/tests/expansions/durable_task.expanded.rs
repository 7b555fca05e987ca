///A captured call of [`send_receipt`](fn@send_receipt).
#[allow(non_camel_case_types)]
#[must_use = "a durable task is stored only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`; `.run(…).await` runs it here and now, and stores nothing"]
pub struct send_receipt {
    order_id: i64,
    email: <str as ::std::borrow::ToOwned>::Owned,
    __options: ::diesel_deferred::__private_0_1_0::CallOptions,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
}
#[track_caller]
pub fn send_receipt(order_id: i64, email: &str) -> send_receipt {
    send_receipt {
        __options: ::diesel_deferred::__private_0_1_0::CallOptions::keyed(
            ::std::format!("receipt-{order_id}"),
        ),
        order_id,
        email: <str as ::std::borrow::ToOwned>::to_owned(email),
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
    }
}
impl ::diesel_deferred::__private_0_1_0::Task for send_receipt {
    type Output = Result<(), MailError>;
    const NAME: &'static str = ::core::concat!(
        ::core::module_path!(), "::", "send_receipt"
    );
    const STATES: &'static [::diesel_deferred::__private_0_1_0::Required] = &[
        ::diesel_deferred::__private_0_1_0::Required::shared::<Mailer>(),
    ];
    fn hand_over<__Receiver: ::diesel_deferred::__private_0_1_0::Receiver>(
        self,
        receiver: __Receiver,
    ) -> __Receiver::Output {
        ::diesel_deferred::__private_0_1_0::Receiver::receive_durable(
            receiver,
            ::diesel_deferred::__private_0_1_0::Durable::call(self),
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
        ::diesel_deferred::__private_0_1_0::Shown("order_id: ", &self.order_id).write(f);
        ::diesel_deferred::__private_0_1_0::Shown(", email: ", &self.email).write(f);
    }
}
impl send_receipt {
    ///The future of the task's body, to be awaited: runs nothing by itself, and stores nothing.
    pub async fn run(self, mailer: &Mailer) -> Result<(), MailError> {
        #[allow(clippy::missing_const_for_fn)]
        async fn __deferred_body(
            mailer: &Mailer,
            order_id: i64,
            email: &str,
        ) -> Result<(), MailError> {
            mailer.receipt(order_id, email).await
        }
        let Self { order_id, email, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body(mailer, order_id, ::core::borrow::Borrow::<str>::borrow(&email))
            .await
    }
    /// Drops the call on purpose: it neither runs nor is registered.
    pub fn forget(self) {
        ::diesel_deferred::__private_0_1_0::Task::give_up(self);
    }
    /// Has the call stored in what the transaction commits, for a worker to run;
    /// `Err(NotInTransaction)` outside of a transaction.
    pub fn after_commit(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<
        ::diesel_deferred::__private_0_1_0::TaskId,
    > {
        ::diesel_deferred::__private_0_1_0::store(self, conn)
    }
    ///Not before this time has passed since the commit.
    pub fn delay(mut self, delay: ::core::time::Duration) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::delay(
            &mut self.__options,
            delay,
        );
        self
    }
    ///Not before this time, by the clock of the database.
    pub fn run_at(mut self, run_at: ::std::time::SystemTime) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::run_at(
            &mut self.__options,
            run_at,
        );
        self
    }
    ///What the call is about.
    pub fn key(
        mut self,
        key: impl ::core::convert::Into<::std::string::String>,
    ) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::key(&mut self.__options, key);
        self
    }
    ///Into another queue than the task's.
    pub fn queue(
        mut self,
        queue: impl ::core::convert::Into<::std::borrow::Cow<'static, str>>,
    ) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::queue(
            &mut self.__options,
            queue,
        );
        self
    }
    ///With another priority than the task's: the lower one runs first.
    pub fn priority(mut self, priority: i16) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::priority(
            &mut self.__options,
            priority,
        );
        self
    }
    ///Tried more or less often than others of the task, the first time included.
    pub fn max_attempts(mut self, max_attempts: u16) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::max_attempts(
            &mut self.__options,
            max_attempts,
        );
        self
    }
    #[doc(hidden)]
    pub fn after_rollback<__Conn>(
        self,
        conn: &mut __Conn,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<()>
    where
        __Conn: ::diesel_deferred::__private_0_1_0::AfterCommit,
        <Self as ::diesel_deferred::__private_0_1_0::Argument<
            __Conn,
        >>::Type: ::diesel_deferred::__private_0_1_0::IsInProcess,
    {
        ::diesel_deferred::__private_0_1_0::after_rollback(self, conn)
    }
}
impl ::core::fmt::Debug for send_receipt {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
const _: () = {
    impl ::diesel_deferred::__private_0_1_0::Durable for send_receipt {
        const DEFAULTS: ::diesel_deferred::__private_0_1_0::Defaults = ::diesel_deferred::__private_0_1_0::Defaults {
            queue: "mail",
            max_attempts: 5u16,
            timeout: ::core::option::Option::Some(
                ::core::time::Duration::from_millis(30000u64),
            ),
            unique: ::core::option::Option::Some(
                ::diesel_deferred::__private_0_1_0::Unique::Keep,
            ),
            ..::diesel_deferred::__private_0_1_0::Defaults::STANDARD
        };
        fn stored<__Any>() -> ::diesel_deferred::__private_0_1_0::Stored<Self> {
            ::diesel_deferred::__private_0_1_0::Stored {
                encode: |
                    call: send_receipt,
                    payload: &mut ::diesel_deferred::__private_0_1_0::Encoder|
                {
                    let _ = &payload;
                    ::diesel_deferred::__private_0_1_0::Encoder::argument(
                        payload,
                        "order_id",
                        &call.order_id,
                    );
                    ::diesel_deferred::__private_0_1_0::Encoder::argument(
                        payload,
                        "email",
                        &call.email,
                    );
                    ::diesel_deferred::__private_0_1_0::CallSite::silence(
                        call.__call_site,
                    );
                    call.__options
                },
                decode: |payload: &::diesel_deferred::__private_0_1_0::Decoder<'_>| {
                    let _ = &payload;
                    ::core::result::Result::Ok(send_receipt {
                        order_id: ::diesel_deferred::__private_0_1_0::Decoder::argument(
                            payload,
                            "order_id",
                        )?,
                        email: ::diesel_deferred::__private_0_1_0::Decoder::argument(
                            payload,
                            "email",
                        )?,
                        __options: ::diesel_deferred::__private_0_1_0::CallOptions::new(),
                        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
                    })
                },
                start: |
                    call: ::diesel_deferred::__private_0_1_0::Taken<send_receipt>,
                    states: &::diesel_deferred::__private_0_1_0::States|
                {
                    let state_0 = ::diesel_deferred::__private_0_1_0::States::shared::<
                        Mailer,
                    >(states)?;
                    ::core::option::Option::Some(
                        ::diesel_deferred::__private_0_1_0::Running::spawned::<
                            send_receipt,
                            _,
                        >(
                            ::diesel_deferred::__private_0_1_0::spawnable(async move {
                                <send_receipt>::run(
                                        ::diesel_deferred::__private_0_1_0::Taken::call(call),
                                        &*state_0,
                                    )
                                    .await
                            }),
                        ),
                    )
                },
            }
        }
    }
    ::diesel_deferred::__private_0_1_0::inventory::submit! {
        ::diesel_deferred::__private_0_1_0::Registered::new:: < send_receipt >
        (::core::file!(), ::core::line!())
    }
};
