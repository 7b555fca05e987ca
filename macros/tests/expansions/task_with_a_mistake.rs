#[deferred_task]
fn count(seen: &mut u64) {
    *seen += 1;
}
