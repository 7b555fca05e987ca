use diesel_deferred::deferred_task;

#[deferred_task(was = "shop::old")]
fn not_durable(id: i32) {
    println!("{id}");
}

#[deferred_task(durable, was, was = "", was = old_name, was("shop::old"))]
fn no_name(id: i32) {
    println!("{id}");
}

#[deferred_task(durable, name = "shop::new", was = "shop::old", was = "shop::new", was = "shop::old")]
fn twice(id: i32) {
    println!("{id}");
}

fn main() {}
