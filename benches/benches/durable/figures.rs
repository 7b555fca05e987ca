//! What is printed.

use std::time::Duration;

/// Of so many tasks each.
pub fn print_rates(what: &str, tasks: u64, theirs: Vec<Duration>, mine: Vec<Duration>) {
    let pairs = theirs.iter().zip(&mine);
    let ratios: Vec<_> = pairs.map(|(theirs, mine)| theirs.as_secs_f64() / mine.as_secs_f64()).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| (least.min(*one), most.max(*one)));
    println!(
        "{what}: by hand {:.0}/s, ours {:.0}/s, ratio {:.2} ({least:.2}–{most:.2})",
        rate(tasks, median(theirs)),
        rate(tasks, median(mine)),
        median(ratios)
    );
}

/// Of so many tasks in this time, a second.
pub fn rate(tasks: u64, time: Duration) -> f64 {
    tasks as f64 / time.as_secs_f64()
}

pub fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    println!("{what}: median {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}

pub fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}
