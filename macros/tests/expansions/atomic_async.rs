async fn sign_up(conn: &mut AsyncDeferredConnection<AsyncPgConnection>, new: &[NewUser]) -> QueryResult<usize> {
    atomic!(conn, async {
        for user in new {
            let id = insert(user).get_result::<i32>(conn).await?;
            send_welcome(id, &user.email);
            touch(id).execute(conn).await?;
            spawn(async move { notify(id); });
        }
        Ok(new.len())
    })
    .await
}
