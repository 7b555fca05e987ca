/// Says hello.
#[deferred_task]
pub fn greet(user_id: i32, name: String) {
    println!("hello {name}, user {user_id}");
}
