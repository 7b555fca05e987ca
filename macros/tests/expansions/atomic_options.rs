fn transfer(pool: &Pool) -> Result<(), BankError> {
    atomic!(conn = pool.get()?, retries = 3, isolation = Serializable, -> Result<(), BankError>, {
        twice!(notify(1));
        book(conn)?;
    })
}
