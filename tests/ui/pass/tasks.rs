//! Task functions in all the shapes that a function can have.

use std::borrow::Cow;
use std::fmt::Debug;
use std::path::Path;

use diesel::prelude::*;
use diesel_deferred::{Task, atomic, deferred_task};
use diesel_deferred_tests::Log;

use crate::connect;

#[deferred_task]
fn generic<T: Debug + Send + 'static, const N: usize>(log: &Log, values: [T; N])
where
    T: Clone,
{
    log.push(format!("{values:?}").len().try_into().expect("short"));
    log.push(N.try_into().expect("small"));
}

#[deferred_task]
fn only_in_the_body<T: Default + Into<i32> + 'static>(log: &Log) {
    log.push(T::default().into());
}

#[deferred_task]
fn r#match(log: &Log, r#type: i32, mut id: i32) {
    id += r#type;
    log.push(id);
}

#[deferred_task]
fn references(log: &Log, text: &str, list: &[i32], path: &Path, number: &i32, fixed: &'static str, all: &Vec<i32>) {
    let lengths = text.len() + list.len() + path.as_os_str().len() + fixed.len() + all.len();
    log.push(*number + i32::try_from(lengths).expect("short"));
}

#[deferred_task]
fn owned(log: Log, name: Cow<'static, str>, callback: fn(&str) -> i32, boxed: Box<dyn Fn(&str) -> i32 + Send>) {
    log.push(callback(&name) + boxed(&name));
}

#[deferred_task]
fn early_return(log: &Log, id: i32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if id == 0 {
        return Ok(());
    }
    let id: i32 = "7".parse()?;
    log.push(id);
    Ok(())
}

/// Calls itself: the name means the function that captures.
#[deferred_task]
fn recursive(log: &Log, left: i32) {
    log.push(left);
    if left > 0 {
        recursive(log, left - 1).run();
    }
}

#[deferred_task(name = "mail.welcome")]
fn named() {}

#[deferred_task]
pub(crate) fn visible() -> std::result::Result<(), std::fmt::Error> {
    Ok(())
}

/// Types that come through a matcher stand in invisible groups.
macro_rules! task {
    ($vis:vis $name:ident($($arg:ident: $type:ty),*) -> $return:ty $body:block) => {
        #[deferred_task]
        $vis fn $name($($arg: $type),*) -> $return $body
    };
}

task!(pub(crate) from_macro(log: &Log, list: &[i32], id: i32) -> Result<(), String> {
    log.push(id + i32::try_from(list.len()).expect("short"));
    Ok(())
});

#[test]
fn shapes() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        generic(&log, ["a", "b"]);
        generic::<u8, 0>(&log, []);
        only_in_the_body::<u8>(&log);
        r#match(&log, 1, 2);
        references(&log, "a", &[1], Path::new("b"), &5, "c", &vec![1]);
        owned(log.clone(), "ada".into(), |name| name.len() as i32, Box::new(|_| 10));
        early_return(&log, 0);
        early_return(&log, 1);
        recursive(&log, 1);
        named();
        visible();
        from_macro(&log, &[1, 2], 40);
        self::from_macro(&log, &[], 50);
        Ok(())
    })?;
    assert_eq!(log.ran(), [10, 2, 2, 0, 0, 3, 10, 13, 7, 1, 0, 42, 50]);
    Ok(())
}

#[test]
fn temporaries_may_be_lent_to_a_call() -> QueryResult<()> {
    let conn = &mut connect();
    let log = Log::new();
    atomic!(conn, -> QueryResult<()>, {
        references(&log, &String::from("abc"), &vec![1, 2], "d".as_ref(), &0, "", &Vec::new());
        Ok(())
    })?;
    assert_eq!(log.ran(), [6]);
    Ok(())
}

#[test]
fn a_call_is_a_value() {
    let log = Log::new();
    let call = early_return(&log, 1);
    assert!(
        format!("{call:?}").ends_with("early_return(log: Log([]), id: 1)") || format!("{call:?}").contains("id: 1")
    );
    assert!(call.run().is_ok());
    assert_eq!(log.ran(), [7]);
    assert_eq!(named::NAME, "mail.welcome");
    assert!(visible::NAME.ends_with("pass::tasks::visible"));
    assert!(r#match::NAME.ends_with("match"));
}
