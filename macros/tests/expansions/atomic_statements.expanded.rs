fn sign_up(conn: &mut Conn, users: &[User]) -> QueryResult<usize> {
    {
        use ::diesel_deferred::__private_0_1_0::{
            AtomicTarget as _, Pass as _, Refuse as _,
        };
        match conn.__atomic_needs_a_deferred_connection() {
            #[allow(clippy::diverging_sub_expression)]
            builder => {
                builder
                    .run_block(|conn, registrar| {
                        let _ = (&conn, &registrar);
                        {
                            for user in users {
                                let id = user.insert(conn)?;
                                match (send_welcome(id, &user.email)) {
                                    #[allow(unreachable_code)]
                                    value => {
                                        registrar.__statement(&value).__settle_statement(value)
                                    }
                                };
                                if user.vip {
                                    match (call(id)) {
                                        #[allow(unreachable_code)]
                                        ref value if false => {
                                            registrar
                                                .__statement(value)
                                                .__settle_statement(
                                                    ::diesel_deferred::__private_0_1_0::unreachable(value),
                                                )
                                        }
                                        #[allow(unreachable_code)]
                                        value => {
                                            registrar.__statement(&value).__settle_statement(value)
                                        }
                                    }
                                } else if id == 0 {
                                    return Ok(0);
                                }
                                match user.plan {
                                    Plan::Free => {}
                                    Plan::Paid => {
                                        match (invoice(id)) {
                                            #[allow(unreachable_code)]
                                            ref value if false => {
                                                registrar
                                                    .__statement(value)
                                                    .__settle_statement(
                                                        ::diesel_deferred::__private_0_1_0::unreachable(value),
                                                    )
                                            }
                                            #[allow(unreachable_code)]
                                            value => {
                                                registrar.__statement(&value).__settle_statement(value)
                                            }
                                        }
                                    }
                                }
                            }
                            let Some(first) = users.first() else {
                                match (report()) {
                                    #[allow(unreachable_code)]
                                    value => {
                                        registrar.__statement(&value).__settle_statement(value)
                                    }
                                };
                                return Ok(0);
                            };
                            match (users
                                .iter()
                                .for_each(|user| match (log(user)) {
                                    #[allow(unreachable_code)]
                                    ref value if false => {
                                        ::diesel_deferred::__private_0_1_0::Statement::of(value)
                                            .__stray_statement(
                                                ::diesel_deferred::__private_0_1_0::unreachable(value),
                                            )
                                    }
                                    #[allow(unreachable_code)]
                                    value => {
                                        ::diesel_deferred::__private_0_1_0::Statement::of(&value)
                                            .__stray_statement(value)
                                    }
                                }))
                            {
                                #[allow(unreachable_code)]
                                value => {
                                    registrar.__statement(&value).__settle_statement(value)
                                }
                            };
                            let length = users.iter().map(|user| user.len()).sum();
                            println!("{}", first.email);
                            Ok(length)
                        }
                    })
            }
        }
    }
}
