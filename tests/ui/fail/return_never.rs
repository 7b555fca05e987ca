use diesel_deferred::deferred_task;

#[deferred_task]
fn watch(path: String) -> ! {
    loop {
        println!("{path}");
    }
}

#[deferred_task]
async fn watch_later(path: String) -> ! {
    loop {
        println!("{path}");
    }
}

fn main() {}
