use diesel_deferred::deferred_task;

#[deferred_task]
unsafe fn free(address: usize) {
    println!("{address}");
}

fn main() {}
