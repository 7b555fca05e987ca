//! Signs up the users of a CSV file in one transaction, and mails those that were really signed up.
//!
//! `cargo run` at the root of the repository. The database and the mails are in a temporary
//! directory.

mod errors;
mod mail;

use std::error::Error;
use std::fs;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel_deferred::{DeferredConnection, atomic, deferred_task};
use lettre::Address;
use serde::Deserialize;

use self::errors::{MailError, SignUpError};
use self::mail::Mailer;

const USERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/users.csv");

const TABLES: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, language TEXT NOT NULL);
    CREATE TABLE logins (email TEXT PRIMARY KEY NOT NULL, user_id INTEGER NOT NULL REFERENCES users);
    CREATE TABLE invitations (user_id INTEGER PRIMARY KEY REFERENCES users, invited_by TEXT NOT NULL REFERENCES logins);";

diesel::table! { users { id -> Integer, name -> Text, language -> Text, } }
diesel::table! { logins (email) { email -> Text, user_id -> Integer, } }
diesel::table! { invitations (user_id) { user_id -> Integer, invited_by -> Text, } }

/// A line of the CSV file.
#[derive(Deserialize)]
struct SignUp {
    name: String,
    email: String,
    language: String,
    invited_by: Option<String>,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser<'a> {
    name: &'a str,
    language: &'a str,
}

#[derive(Queryable, Selectable, Debug, Clone)]
struct User {
    id: i32,
    name: String,
    language: String,
}

// A task is a function. Its arguments are captured by value at the call: the references are cloned
// there, so what the caller does to its variables afterwards does not matter. `Mailer` is cheap to
// clone, as mail transports and pools are.
#[deferred_task]
fn send_welcome(mailer: &Mailer, user: &User, email: &str) -> Result<(), MailError> {
    mailer.welcome(user, email)
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let outbox = dir.path().join("outbox");
    fs::create_dir(&outbox)?;
    let database = dir.path().join("quickstart.db").display().to_string();
    let conn = &mut DeferredConnection::<SqliteConnection>::establish(&database)?;
    conn.batch_execute("PRAGMA foreign_keys = ON")?;
    conn.batch_execute(TABLES)?;

    let sign_ups = csv::Reader::from_path(USERS)?.into_deserialize().collect::<Result<Vec<SignUp>, _>>()?;
    let mailer = Mailer::new(&outbox)?;
    let mut refused = Vec::new();
    atomic!(conn, -> Result<(), Box<dyn Error>>, {
        for sign_up in &sign_ups {
            // A savepoint for each user: one that is refused takes its own rows and its own mail
            // with it, no other's.
            let result = atomic!(conn, {
                let user = diesel::insert_into(users::table)
                    .values(NewUser { name: &sign_up.name, language: &sign_up.language })
                    .returning(User::as_returning())
                    .get_result(conn)?;
                send_welcome(&mailer, &user, &sign_up.email); // not sent here: it waits for the outermost COMMIT
                add_login(conn, &user, sign_up)
            });
            if let Err(error) = result {
                refused.push((sign_up, error));
            }
        }
        println!("before COMMIT: {} mails wait, {} are in the outbox", conn.pending().len(), mail::read(&outbox)?.len());
        Ok(())
    })?;

    // COMMIT is done, and so are the mails.
    let mailed = mail::read(&outbox)?;
    println!("\nmailed:");
    for email in &mailed {
        println!("  {email}");
    }
    println!("\nnot mailed, because they were not signed up:");
    for (sign_up, error) in &refused {
        println!("  {} <{}>: {error}", sign_up.name, sign_up.email);
    }
    println!("\nsigned up, but their mail failed:");
    for failure in conn.last_report().failures() {
        println!("  {}", failure.cause);
    }

    // Do not take our word for it: what does another connection see, and whose mails are there?
    let second = &mut SqliteConnection::establish(&database)?;
    let committed: Vec<String> = logins::table.select(logins::email).order(logins::email).load(second)?;
    let unmailed: Vec<&String> = committed.iter().filter(|email| !mailed.contains(email)).collect();
    assert!(mailed.iter().all(|email| committed.contains(email)), "a mail without a committed user");
    assert_eq!(unmailed.len(), conn.last_report().failures().len(), "a mail is missing and nobody was told");
    println!(
        "\na second connection sees {} users; {} mails are in the outbox, each to one of them, and {} failed",
        committed.len(),
        mailed.len(),
        unmailed.len()
    );
    Ok(())
}

/// What can still refuse a user whose mail waits already: a bad address, a taken one, an inviter
/// who is not a user.
// It asks for Diesel's own connection, which `DeferredConnection` derefs to: what calls no tasks
// stays as it is.
fn add_login(conn: &mut SqliteConnection, user: &User, sign_up: &SignUp) -> Result<(), SignUpError> {
    let email: Address = sign_up.email.parse()?;
    diesel::insert_into(logins::table)
        .values((logins::email.eq(email.to_string()), logins::user_id.eq(user.id)))
        .execute(conn)?;
    if let Some(inviter) = &sign_up.invited_by {
        diesel::insert_into(invitations::table)
            .values((invitations::user_id.eq(user.id), invitations::invited_by.eq(inviter)))
            .execute(conn)?;
    }
    Ok(())
}
