fn transfer(pool: &Pool) -> Result<(), BankError> {
    {
        use ::diesel_deferred::__private_0_1_0::{
            AtomicTarget as _, Pass as _, Refuse as _,
        };
        match (pool.get()?).__atomic_needs_a_deferred_connection() {
            #[allow(clippy::diverging_sub_expression)]
            builder => {
                let builder = builder
                    .isolation(
                        ::diesel_deferred::__private_0_1_0::IsolationLevel::Serializable,
                    );
                let builder = builder.retries(3);
                builder
                    .run_block(|conn, registrar| -> Result<(), BankError> {
                        let _ = (&conn, &registrar);
                        match match () {
                            #[deny(unused_must_use)]
                            () => {
                                twice!(notify(1));
                                match (book(conn)?) {
                                    #[allow(unreachable_code)]
                                    value => {
                                        registrar.__statement(&value).__settle_statement(value)
                                    }
                                };
                            }
                        } {
                            #[allow(unreachable_code)]
                            ref value => {
                                ::diesel_deferred::__private_0_1_0::End(value).end()
                            }
                        }
                    })
            }
        }
    }
}
