async fn transfer(pool: &Pool) -> Result<(), BankError> {
    ::diesel_deferred::__private_0_1_0::future(async move {
            use ::diesel_deferred::__private_0_1_0::{
                AtomicTarget as _, Pass as _, Refuse as _,
            };
            match (pool.get().await?).__atomic_needs_an_async_deferred_connection() {
                #[allow(clippy::diverging_sub_expression)]
                builder => {
                    let builder = builder
                        .isolation(
                            ::diesel_deferred::__private_0_1_0::IsolationLevel::Serializable,
                        );
                    let builder = builder.retries(3);
                    let mut attempts = builder.__attempts();
                    loop {
                        let mut open = (&mut attempts).begin().await;
                        let outcome = match (&mut open).parts() {
                            ::core::option::Option::None => ::core::option::Option::None,
                            ::core::option::Option::Some((conn, registrar)) => {
                                ::core::option::Option::Some(
                                    ::diesel_deferred::__private_0_1_0::caught(async {
                                            let _ = (&mut *conn, &registrar);
                                            if false {
                                                return ::diesel_deferred::__private_0_1_0::never_returned::<
                                                    Result<(), BankError>,
                                                >();
                                            }
                                            match {
                                                match (notify(1)) {
                                                    #[allow(unreachable_code)]
                                                    value => {
                                                        registrar.__statement(&value).__settle_statement(value)
                                                    }
                                                };
                                                match (book(conn).await?) {
                                                    #[allow(unreachable_code)]
                                                    value => {
                                                        registrar.__statement(&value).__settle_statement(value)
                                                    }
                                                };
                                            } {
                                                #[allow(unreachable_code)]
                                                ref value => {
                                                    ::diesel_deferred::__private_0_1_0::End(value).end()
                                                }
                                            }
                                        })
                                        .await,
                                )
                            }
                        };
                        let result = open.end(outcome).await;
                        if !(&mut attempts)
                            .again(::core::result::Result::is_err(&result))
                            .await
                        {
                            break result;
                        }
                    }
                }
            }
        })
        .await
}
