fn sign_up(conn: &mut Conn, users: &[User]) -> QueryResult<usize> {
    atomic!(conn, {
        for user in users {
            let id = user.insert(conn)?;
            send_welcome(id, &user.email);
            if user.vip { call(id) } else if id == 0 { return Ok(0); }
            match user.plan {
                Plan::Free => {}
                Plan::Paid => invoice(id),
            }
        }
        let Some(first) = users.first() else {
            report();
            return Ok(0);
        };
        users.iter().for_each(|user| log(user));
        let length = users.iter().map(|user| user.len()).sum();
        println!("{}", first.email);
        Ok(length)
    })
}
