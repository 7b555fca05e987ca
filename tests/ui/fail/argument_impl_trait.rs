use diesel_deferred::deferred_task;

#[deferred_task]
fn print(value: impl ToString + Send + 'static) {
    println!("{}", value.to_string());
}

fn main() {}
