//! What all workers of a simulation share: the database, which is the model, its clock, chance, and
//! a log of what happened.
//!
//! Must not know: workers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::witness::Witness;
use crate::durable::worker::model::table::Table;

/// The time on the database's clock when a simulation begins.
const BEGIN_MS: i64 = 1_000_000_000;

/// All of it.
pub(super) struct World {
    table: Table,
    pub(super) witness: Witness,
    pub(super) rng: Rng,
    begin: Instant,
    /// By how much the database's clock is off.
    pub(super) clock_off_ms: i64,
    /// How many statements in a hundred go wrong.
    pub(super) trouble: u32,
    /// The database cannot be reached.
    pub(super) is_away: bool,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    pub(super) log: Vec<String>,
}

/// A handle of it.
#[derive(Clone)]
pub(super) struct Shared {
    world: Arc<Mutex<World>>,
    /// There may be something to take.
    pub(super) hint: Arc<Notify>,
}

impl Shared {
    pub(super) fn new(rng: Rng) -> Self {
        let world = World {
            table: Table::default(),
            witness: Witness::default(),
            rng,
            begin: Instant::now(),
            clock_off_ms: 0,
            trouble: 0,
            is_away: false,
            calm: false,
            log: Vec::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), hint: Arc::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// The table, at this moment.
    pub(super) fn table(&mut self) -> &mut Table {
        self.table.now = BEGIN_MS + self.elapsed_ms() + self.clock_off_ms;
        &mut self.table
    }

    pub(super) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.begin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Does something with the table, and looks whether all is as it must be then.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Table) -> T) -> T {
        let answer = change(self.table());
        self.look();
        answer
    }

    /// The same with something that says of how many rows it was, and often finds none.
    pub(super) fn change_some(&mut self, change: impl FnOnce(&mut Table) -> usize) -> usize {
        let count = change(self.table());
        if count > 0 {
            self.look();
        }
        count
    }

    fn look(&mut self) {
        let known = self.witness.wrong.len();
        self.witness.look(&self.table);
        for wrong in self.witness.wrong.split_off(known) {
            self.note(format_args!("!! {wrong}"));
            self.witness.wrong.push(wrong);
        }
    }

    /// Notes that this happened.
    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.log.push(format!("{:>7} {what}", self.elapsed_ms()));
    }

    /// Whether something happens that happens so many times in a hundred.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// Some time up to this.
    pub(super) fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.rng.u64(0..=u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)))
    }
}
