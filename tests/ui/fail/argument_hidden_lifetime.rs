use diesel_deferred::deferred_task;

struct Name<'a>(&'a str);

#[deferred_task]
fn print(name: Name) {
    println!("{}", name.0);
}

fn main() {}
