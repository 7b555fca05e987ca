///A captured call of [`archive`](fn@archive).
#[allow(non_camel_case_types)]
#[must_use = "a durable task is stored only when it is registered: call it as a statement of `atomic!`, or write `.after_commit(conn)?`; `.run()` runs it here and now, and stores nothing"]
struct archive {
    path: PathBuf,
    r#type: Kind,
    age: Duration,
    __options: ::diesel_deferred::__private_0_1_0::CallOptions,
    __call_site: ::diesel_deferred::__private_0_1_0::CallSite<Self>,
}
#[track_caller]
fn archive(path: PathBuf, r#type: Kind, age: Duration) -> archive {
    archive {
        __options: ::diesel_deferred::__private_0_1_0::CallOptions::new(),
        path,
        r#type,
        age,
        __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
    }
}
impl ::diesel_deferred::__private_0_1_0::Task for archive {
    type Output = io::Result<()>;
    const NAME: &'static str = ::core::concat!(::core::module_path!(), "::", "archive");
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
        ::diesel_deferred::__private_0_1_0::Shown("path: ", &self.path).write(f);
        ::diesel_deferred::__private_0_1_0::Shown(", r#type: ", &self.r#type).write(f);
        ::diesel_deferred::__private_0_1_0::Shown(", age: ", &self.age).write(f);
    }
}
impl archive {
    ///Runs the task now, on this thread, and stores nothing.
    fn run(self) -> io::Result<()> {
        #[allow(clippy::missing_const_for_fn)]
        fn __deferred_body(
            path: PathBuf,
            r#type: Kind,
            age: Duration,
        ) -> io::Result<()> {
            store(path, r#type, age)
        }
        let Self { path, r#type, age, __call_site, .. } = self;
        ::diesel_deferred::__private_0_1_0::CallSite::silence(__call_site);
        __deferred_body(path, r#type, age)
    }
    /// Drops the call on purpose: it neither runs nor is registered.
    fn forget(self) {
        ::diesel_deferred::__private_0_1_0::Task::give_up(self);
    }
    /// Has the call stored in what the transaction commits, for a worker to run;
    /// `Err(NotInTransaction)` outside of a transaction.
    fn after_commit(
        self,
        conn: &mut impl ::diesel_deferred::__private_0_1_0::AfterCommit,
    ) -> ::diesel_deferred::__private_0_1_0::QueryResult<
        ::diesel_deferred::__private_0_1_0::TaskId,
    > {
        ::diesel_deferred::__private_0_1_0::store(self, conn)
    }
    ///Not before this time has passed since the commit.
    fn delay(mut self, delay: ::core::time::Duration) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::delay(
            &mut self.__options,
            delay,
        );
        self
    }
    ///Not before this time, by the clock of the database.
    fn run_at(mut self, run_at: ::std::time::SystemTime) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::run_at(
            &mut self.__options,
            run_at,
        );
        self
    }
    ///What the call is about.
    fn key(mut self, key: impl ::core::convert::Into<::std::string::String>) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::key(&mut self.__options, key);
        self
    }
    ///Into another queue than the task's.
    fn queue(
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
    fn priority(mut self, priority: i16) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::priority(
            &mut self.__options,
            priority,
        );
        self
    }
    ///Tried more or less often than others of the task, the first time included.
    fn max_attempts(mut self, max_attempts: u16) -> Self {
        ::diesel_deferred::__private_0_1_0::CallOptions::max_attempts(
            &mut self.__options,
            max_attempts,
        );
        self
    }
    #[doc(hidden)]
    fn after_rollback<__Conn>(
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
impl ::core::fmt::Debug for archive {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::diesel_deferred::__private_0_1_0::fmt_call(self, f)
    }
}
const _: () = {
    #[allow(non_camel_case_types)]
    #[derive(
        ::diesel_deferred::__private_0_1_0::serde::Serialize,
        ::diesel_deferred::__private_0_1_0::serde::Deserialize
    )]
    #[serde(crate = "::diesel_deferred::__private_0_1_0::serde")]
    struct __Argument_age {
        #[serde(default, with = "seconds")]
        age: Duration,
    }
    impl ::diesel_deferred::__private_0_1_0::Durable for archive {
        const DEFAULTS: ::diesel_deferred::__private_0_1_0::Defaults = ::diesel_deferred::__private_0_1_0::Defaults::STANDARD;
        fn stored<__Any>() -> ::diesel_deferred::__private_0_1_0::Stored<Self> {
            fn capture_0<__Any>() -> ::diesel_deferred::__private_0_1_0::Stored<archive>
            where
                <Kind as ::diesel_deferred::__private_0_1_0::Argument<
                    __Any,
                >>::Type: ::diesel_deferred::__private_0_1_0::Storable,
            {
                capture_1::<__Any>()
            }
            fn capture_1<__Any>() -> ::diesel_deferred::__private_0_1_0::Stored<archive>
            where
                <Kind as ::diesel_deferred::__private_0_1_0::Argument<
                    __Any,
                >>::Type: ::diesel_deferred::__private_0_1_0::Storable,
                <Duration as ::diesel_deferred::__private_0_1_0::Argument<
                    __Any,
                >>::Type: ::diesel_deferred::__private_0_1_0::Captured,
            {
                ::diesel_deferred::__private_0_1_0::Stored {
                    encode: |
                        call: archive,
                        payload: &mut ::diesel_deferred::__private_0_1_0::Encoder|
                    {
                        let _ = &payload;
                        ::diesel_deferred::__private_0_1_0::Encoder::argument(
                            payload,
                            "path",
                            &call.path,
                        );
                        ::diesel_deferred::__private_0_1_0::Encoder::argument(
                            payload,
                            "type",
                            &call.r#type,
                        );
                        ::diesel_deferred::__private_0_1_0::Encoder::wrapped(
                            payload,
                            "age",
                            &__Argument_age { age: call.age },
                        );
                        ::diesel_deferred::__private_0_1_0::CallSite::silence(
                            call.__call_site,
                        );
                        call.__options
                    },
                    decode: |payload: &::diesel_deferred::__private_0_1_0::Decoder<'_>| {
                        let _ = &payload;
                        ::core::result::Result::Ok(archive {
                            path: ::diesel_deferred::__private_0_1_0::Decoder::argument(
                                payload,
                                "path",
                            )?,
                            r#type: ::diesel_deferred::__private_0_1_0::Decoder::argument(
                                payload,
                                "type",
                            )?,
                            age: ::diesel_deferred::__private_0_1_0::Decoder::wrapped::<
                                __Argument_age,
                            >(payload, "age")?
                                .age,
                            __options: ::diesel_deferred::__private_0_1_0::CallOptions::new(),
                            __call_site: ::diesel_deferred::__private_0_1_0::CallSite::of_caller(),
                        })
                    },
                    start: |
                        call: ::diesel_deferred::__private_0_1_0::Taken<archive>,
                        _: &::diesel_deferred::__private_0_1_0::States|
                    {
                        ::core::option::Option::Some(
                            ::diesel_deferred::__private_0_1_0::Running::blocking::<
                                archive,
                                _,
                            >(move || <archive>::run(
                                ::diesel_deferred::__private_0_1_0::Taken::call(call),
                            )),
                        )
                    },
                }
            }
            capture_0::<__Any>()
        }
    }
    ::diesel_deferred::__private_0_1_0::inventory::submit! {
        ::diesel_deferred::__private_0_1_0::Registered::new:: < archive >
        (::core::file!(), ::core::line!())
    }
};
