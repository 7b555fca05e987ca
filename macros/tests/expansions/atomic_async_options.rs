async fn transfer(pool: &Pool) -> Result<(), BankError> {
    atomic!(conn = pool.get().await?, retries = 3, isolation = Serializable, -> Result<(), BankError>, async move {
        notify(1);
        book(conn).await?;
    })
    .await
}
