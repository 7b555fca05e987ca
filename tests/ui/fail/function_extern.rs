use diesel_deferred::deferred_task;

#[deferred_task]
extern "C" fn call_back(code: i32) {
    println!("{code}");
}

fn main() {}
