use diesel_deferred::deferred_task;

#[deferred_task(blocking)]
async unsafe fn send<'a>(#[state] prefix: &'a mut String, list: &mut Vec<i32>) {
    println!("{prefix} {list:?}");
}

fn main_task(prefix: &mut String) {
    let _ = send(&mut Vec::new()).run(prefix);
}

fn main() {}
