//! Who is next of the keys that ends have left: which claim takes it, on databases that cannot say so
//! in the statement that finds it.
//!
//! Must not know: any database, and how it was found.

use std::collections::HashMap;

use diesel::sql_types::{BigInt, Bool, SmallInt, Text};

use super::Claim;
use super::floor::Start;
use super::statements::{ClaimedRow, Taken};
use crate::durable::id::{SqlTaskId, TaskId};

/// A row that is next of its key, which is locked.
#[derive(Debug, diesel::Queryable)]
#[diesel(sql_type = NextOfKeySql)]
pub(super) struct NextOfKey {
    pub(super) id: TaskId,
    queue: String,
    priority: i16,
    run_at_ms: i64,
    bytes: i64,
    /// Whether nothing is taken of its queue.
    paused: bool,
}

/// See [`NextOfKey`].
pub(super) type NextOfKeySql = (SqlTaskId, Text, SmallInt, BigInt, BigInt, Bool);

/// What becomes of such rows.
pub(super) struct Shares {
    /// Those that start, each with the place of its claim.
    claim_of: HashMap<TaskId, usize>,
    /// The others.
    pub(super) ready: Vec<TaskId>,
    claims: usize,
}

impl Shares {
    /// Rows start as far as claims of their queues reach, the first ones first.
    pub(super) fn of(mut next: Vec<NextOfKey>, claims: &[(Claim, Option<Start>)]) -> Self {
        next.sort_unstable_by_key(|row| (row.priority, row.run_at_ms, row.id));
        let mut shares = Self { claim_of: HashMap::new(), ready: Vec::new(), claims: claims.len() };
        let mut taken = vec![(0_u32, 0_i64); claims.len()];
        for row in next {
            let claim = claims.iter().position(|(claim, _)| *claim.queue == *row.queue && !row.paused);
            let fits = claim.filter(|&at| {
                let ((claim, _), (rows, bytes)) = (&claims[at], taken[at]);
                rows < claim.limit && (rows == 0 || bytes < claim.bytes)
            });
            match fits {
                Some(at) => {
                    taken[at] = (taken[at].0 + 1, taken[at].1.saturating_add(row.bytes));
                    shares.claim_of.insert(row.id, at);
                }
                None => shares.ready.push(row.id),
            }
        }
        shares
    }

    /// Those that start.
    pub(super) fn starting(&self) -> Vec<TaskId> {
        self.claim_of.keys().copied().collect()
    }

    /// What each claim took, when they have been read.
    pub(super) fn taken(&self, rows: Vec<ClaimedRow>) -> Vec<Taken> {
        let mut taken: Vec<_> = (0..self.claims).map(|_| Taken { handed_over: true, ..Taken::default() }).collect();
        for row in rows {
            if let Some(&at) = self.claim_of.get(&row.id) {
                taken[at].rows.push(row);
            }
        }
        taken
    }
}
