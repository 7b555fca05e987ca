async fn sign_up(
    conn: &mut AsyncDeferredConnection<AsyncPgConnection>,
    new: &[NewUser],
) -> QueryResult<usize> {
    ::diesel_deferred::__private_0_1_0::future(async {
            use ::diesel_deferred::__private_0_1_0::{
                AtomicTarget as _, Pass as _, Refuse as _,
            };
            match conn.__atomic_needs_an_async_deferred_connection() {
                #[allow(clippy::diverging_sub_expression)]
                builder => {
                    let mut attempts = builder.__attempts();
                    let mut open = (&mut attempts).begin().await;
                    let outcome = match (&mut open).parts() {
                        ::core::option::Option::None => ::core::option::Option::None,
                        ::core::option::Option::Some((conn, registrar)) => {
                            ::core::option::Option::Some(
                                ::diesel_deferred::__private_0_1_0::caught(async {
                                        let _ = (&mut *conn, &registrar);
                                        {
                                            for user in new {
                                                let id = insert(user).get_result::<i32>(conn).await?;
                                                match (send_welcome(id, &user.email)) {
                                                    #[allow(unreachable_code)]
                                                    value => {
                                                        registrar.__statement(&value).__settle_statement(value)
                                                    }
                                                };
                                                match (touch(id).execute(conn).await?) {
                                                    #[allow(unreachable_code)]
                                                    value => {
                                                        registrar.__statement(&value).__settle_statement(value)
                                                    }
                                                };
                                                match (spawn(async move {
                                                    match (notify(id)) {
                                                        #[allow(unreachable_code)]
                                                        value => {
                                                            ::diesel_deferred::__private_0_1_0::Statement::of(&value)
                                                                .__stray_statement(value)
                                                        }
                                                    };
                                                })) {
                                                    #[allow(unreachable_code)]
                                                    value => {
                                                        registrar.__statement(&value).__settle_statement(value)
                                                    }
                                                };
                                            }
                                            Ok(new.len())
                                        }
                                    })
                                    .await,
                            )
                        }
                    };
                    let result = open.end(outcome).await;
                    result
                }
            }
        })
        .await
}
