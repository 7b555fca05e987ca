async fn transfer(pool: &Pool) -> Result<(), BankError> {
    async move {
        use ::diesel_deferred::__private_0_1_0::{AtomicTarget as _, Pass as _};
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
                    let result = match (&mut attempts).begin().await {
                        ::core::result::Result::Err(error) => {
                            ::diesel_deferred::__private_0_1_0::refused(error)
                        }
                        ::core::result::Result::Ok(mut open) => {
                            let outcome = {
                                let (conn, registrar) = (&mut open).parts();
                                ::diesel_deferred::__private_0_1_0::caught::<
                                    Result<(), BankError>,
                                    _,
                                >(async {
                                        let _ = (&mut *conn, &registrar);
                                        match {
                                            match (notify(1)) {
                                                #[allow(unreachable_code)]
                                                value => {
                                                    ::diesel_deferred::__private_0_1_0::Statement::of(&value)
                                                        .__settle_statement(value, registrar)
                                                }
                                            };
                                            match (book(conn).await?) {
                                                #[allow(unreachable_code)]
                                                value => {
                                                    ::diesel_deferred::__private_0_1_0::Statement::of(&value)
                                                        .__settle_statement(value, registrar)
                                                }
                                            };
                                        } {
                                            #[allow(unreachable_code)]
                                            ref value => {
                                                ::diesel_deferred::__private_0_1_0::End(value).end()
                                            }
                                        }
                                    })
                                    .await
                            };
                            open.end(outcome).await
                        }
                    };
                    if !(&mut attempts)
                        .again(::core::result::Result::is_err(&result))
                        .await
                    {
                        break result;
                    }
                }
            }
        }
    }
        .await
}
