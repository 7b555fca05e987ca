//! The protocol by example: what a call goes through, one rule each.
//!
//! Must not know: any database.

use std::sync::Arc;
use std::time::Duration;

use super::calls::{call, id};
use super::table::{State, Table};
use crate::durable::row::{NewTask, Schedule};
use crate::durable::worker::source::statements::{Ended, Unread};
use crate::durable::worker::source::{Claim, Lease, Outcome, Settlement, Unknown};

const SECOND: Duration = Duration::from_secs(1);

/// A call of a task `mail` in the queue `default`.
fn mail(number: u128) -> NewTask {
    call(number, "mail", "default")
}

fn keyed(number: u128) -> NewTask {
    NewTask { key: Some("a".to_owned()), ..mail(number) }
}

fn unique(number: u128) -> NewTask {
    NewTask { unique_key: Some("u".to_owned()), ..mail(number) }
}

/// The first or second worker.
fn worker(number: u128) -> Lease {
    Lease { worker: id(1_000 + number), duration: 10 * SECOND, keeps_done: false }
}

impl Table {
    /// A table with these calls, each written by a statement of its own.
    fn of(calls: impl IntoIterator<Item = NewTask>) -> Self {
        let mut table = Self::default();
        calls.into_iter().for_each(|call| table.enqueue(&[call]));
        table
    }

    /// The first worker takes so many calls; says which.
    fn take(&mut self, limit: u32) -> Vec<u128> {
        let claim = Claim { lane: 0, queue: Arc::from("default"), limit, bytes: 1_000_000, hungry: true };
        let rows = self.claim(&worker(1), &claim);
        rows.into_iter().map(|row| row.id.as_uuid().as_u128()).collect()
    }

    /// An attempt of the first worker's ends.
    fn end_of(&mut self, number: u128, outcome: Outcome) -> bool {
        let row = &self.rows[&id(number)];
        let (key, started_at_ms) = (row.key.clone(), row.started_at.unwrap_or_default());
        self.settle(&worker(1), &Settlement { id: id(number), started_at_ms, key, unstarted: 0, outcome })
    }

    fn state(&self, number: u128) -> Option<State> {
        self.rows.get(&id(number)).map(|row| row.state)
    }

    fn states(&self) -> Vec<State> {
        self.rows.values().map(|row| row.state).collect()
    }

    fn passes(&mut self, time: Duration) {
        self.now += time.as_millis() as i64;
    }
}

fn retry() -> Outcome {
    Outcome::Retry { after: SECOND, error: "it failed".to_owned() }
}

#[test]
fn q4_calls_are_taken_by_priority_then_due_time_then_id() {
    let later = NewTask { schedule: Schedule::AtMs(-1), ..mail(3) };
    let mut table =
        Table::of([NewTask { priority: 1, ..mail(1) }, mail(2), later, NewTask { priority: -1, ..mail(4) }]);
    assert_eq!(table.take(3), [4, 3, 2]);
    assert_eq!(table.take(3), [1]);
}

#[test]
fn d22_a_claim_takes_no_more_bytes_than_are_wanted_but_one_call_at_least() {
    let mut table = Table::of([mail(1), mail(2), mail(3)]);
    let claim = Claim { lane: 0, queue: Arc::from("default"), limit: 3, bytes: 1, hungry: true };
    assert_eq!(table.claim(&worker(1), &claim).len(), 1);
}

#[test]
fn d10_an_attempt_is_counted_when_it_starts_and_the_last_one_is_not_rescued() {
    let mut table = Table::of([NewTask { max_attempts: 2, ..mail(1) }]);
    assert_eq!(table.take(1), [1]);
    table.passes(11 * SECOND);
    assert_eq!(table.rescue()[0].3, "ready");
    assert_eq!(table.take(1), [1]);
    table.passes(11 * SECOND);
    assert_eq!(table.rescue()[0].3, "dead");
}

#[test]
fn d11_a_call_is_nobody_elses_until_its_lease_ends_and_not_its_workers_behind_that() {
    let mut table = Table::of([mail(1)]);
    table.take(1);
    table.passes(9 * SECOND);
    assert_eq!(table.renew(&worker(1), &[id(1)]), [(id(1), false)]);
    table.passes(10 * SECOND);
    assert_eq!(table.rescue(), []);
    table.passes(SECOND);
    assert_eq!(table.rescue().len(), 1);
    assert_eq!(table.renew(&worker(1), &[id(1)]), []);
    assert!(!table.end_of(1, Outcome::Done));
    assert_eq!(table.state(1), Some(State::Ready));
}

#[test]
fn d19_what_was_given_back_unstarted_has_spent_no_attempt() {
    for (started, attempts) in [(false, 0), (true, 1)] {
        let mut table = Table::of([mail(1)]);
        table.take(1);
        table.end_of(1, Outcome::Released { started });
        assert_eq!(table.rows[&id(1)].attempts, attempts);
        assert_eq!(table.state(1), Some(State::Ready));
    }
}

#[test]
fn d9_calls_of_one_key_run_one_after_the_other_in_their_order() {
    let mut table = Table::of([keyed(1), keyed(2), keyed(3)]);
    assert_eq!(table.take(1), [1]);
    assert_eq!(table.take(3), [], "the others wait, and are out of the way of claims");
    assert_eq!(table.states(), [State::Running, State::Blocked, State::Blocked]);
    table.end_of(1, Outcome::Done);
    assert_eq!(table.states(), [State::Ready, State::Blocked]);
    assert_eq!(table.take(3), [2]);
}

#[test]
fn d9_one_that_is_tried_again_keeps_its_key() {
    let mut table = Table::of([keyed(1), keyed(2)]);
    table.take(1);
    table.end_of(1, retry());
    assert_eq!(table.take(2), []);
    table.passes(SECOND);
    table.promote();
    assert_eq!(table.take(2), [1]);
}

#[test]
fn d9_one_that_was_never_tried_keeps_nobody_waiting_until_it_is_due() {
    let mut table = Table::of([NewTask { schedule: Schedule::AfterMs(1_000), ..keyed(1) }, keyed(2), keyed(3)]);
    assert_eq!(table.take(1), [2]);
    table.passes(SECOND);
    table.promote();
    table.end_of(2, Outcome::Done);
    assert_eq!(table.take(2), [1]);
}

#[test]
fn d9_calls_of_one_statement_are_blocked_as_they_are_written() {
    let mut table = Table::default();
    table.enqueue(&[keyed(1), keyed(2), mail(3)]);
    assert_eq!(table.states(), [State::Ready, State::Blocked, State::Ready]);
}

#[test]
fn d9_nothing_overtakes_what_waits_behind_one_that_was_cancelled() {
    let mut table = Table::of([]);
    table.enqueue(&[keyed(1), keyed(2)]);
    table.enqueue(&[keyed(3)]);
    table.cancel(id(1));
    assert_eq!(table.take(3), [], "nobody has looked yet who waits behind it");
    let freed = table.freed();
    table.free_keys(&freed);
    assert_eq!(table.take(3), [2]);
}

#[test]
fn d20_unique_holds_until_the_first_start() {
    let mut table = Table::of([unique(1), unique(2)]);
    assert_eq!(table.take(2), [1], "the second one was not written");
    table.enqueue(&[unique(3)]);
    assert_eq!(table.state(3), Some(State::Ready));
    table.end_of(1, Outcome::Released { started: false });
    assert_eq!(table.states(), [State::Ready, State::Ready], "by now they are two");
    table.enqueue(&[unique(4)]);
    assert_eq!(table.state(4), None);
}

#[test]
fn q5_one_that_replaces_takes_the_place_of_the_one_that_waits() {
    let replaces = |number| NewTask { replaces: true, key: Some("a".to_owned()), ..unique(number) };
    let mut table = Table::of([replaces(1), keyed(2), replaces(3)]);
    assert_eq!((table.state(1), table.state(3)), (None, Some(State::Scheduled)));
    assert_eq!(table.freed(), [(id(3), "a".to_owned())], "others may have waited behind the first one");
    table.free_keys(&[(id(3), "a".to_owned())]);
    table.promote();
    assert_eq!(table.state(3), Some(State::Ready));
}

#[test]
fn q6_a_snooze_is_no_attempt() {
    let mut table = Table::of([NewTask { max_attempts: 1, ..mail(1) }]);
    table.take(1);
    table.end_of(1, Outcome::Snoozed(SECOND));
    table.passes(SECOND);
    table.promote();
    table.take(1);
    assert_eq!(table.rows[&id(1)].attempts - table.rows[&id(1)].snoozes, 1);
}

#[test]
fn q7_what_waits_is_cancelled_at_once_and_what_runs_by_its_worker() {
    let mut table = Table::of([mail(1), mail(2)]);
    table.take(1);
    assert_eq!((table.cancel(id(1)), table.cancel(id(2))), (1, 1));
    assert_eq!(table.states(), [State::Running, State::Cancelled]);
    assert_eq!(table.renew(&worker(1), &[id(1)]), [(id(1), true)]);
    table.end_of(1, retry());
    assert_eq!(table.state(1), Some(State::Cancelled), "it is not tried again");
}

#[test]
fn q13_nothing_is_taken_of_a_queue_that_is_paused() {
    let mut table = Table::of([mail(1)]);
    table.pause("default");
    assert_eq!(table.take(1), []);
    table.resume("default");
    assert_eq!(table.take(1), [1]);
}

#[test]
fn d21_what_a_program_cannot_read_spends_nothing_and_holds_up_nobody() {
    let mut table = Table::of([keyed(1), keyed(2)]);
    table.take(1);
    table.end_of(1, Outcome::Refused { after: SECOND, error: "no such task".to_owned() });
    assert_eq!((table.state(1), table.rows[&id(1)].attempts), (Some(State::Unknown), 0));
    assert_eq!(table.take(2), [2]);
    assert_eq!(table.next_unknown(""), Some(("mail".to_owned(), false)));
    assert_eq!(table.adopt("mail", Unread::Offered), 0, "its pause is not over");
    table.passes(SECOND);
    assert_eq!(table.adopt("mail", Unread::Offered), 1);
    table.end_of(2, Outcome::Done);
    assert_eq!(table.take(2), [1]);
}

#[test]
fn d21_a_program_that_has_just_started_is_offered_it_at_once() {
    let mut table = Table::of([mail(1)]);
    table.take(1);
    table.end_of(1, Outcome::Refused { after: 1_000 * SECOND, error: "no such argument".to_owned() });
    table.passes(SECOND);
    assert_eq!(table.adopt("mail", Unread::All), 1);
    assert_eq!(table.rows[&id(1)].run_at, table.now);
    assert_eq!(table.take(2), [1]);
}

#[test]
fn d21_what_a_program_does_not_have_it_leaves_where_it_is_and_nobody_is_overtaken() {
    let mut table = Table::of([keyed(1), keyed(2)]);
    let unknown = Unknown { queue: Arc::from("default"), task: "mail".to_owned(), error: "no such task".to_owned() };
    assert_eq!(table.park(&unknown), 2);
    assert_eq!(table.states(), [State::Unknown, State::Unknown]);
    assert_eq!(table.adopt("mail", Unread::Offered), 0, "nobody has looked yet who waits behind them");
    let freed = table.freed();
    table.free_keys(&freed);
    assert_eq!(table.adopt("mail", Unread::Offered), 2);
    assert_eq!(table.park(&unknown), 0, "it was offered again, and is about to be claimed");
    assert_eq!(table.take(2), [1]);
}

#[test]
fn d19_what_is_taken_anew_while_it_runs_has_spent_one_attempt() {
    let mut table = Table::of([mail(1)]);
    table.take(1);
    table.passes(worker(1).duration + SECOND);
    table.rescue();
    table.take(1);
    let started_at_ms = table.now;
    let failed = Outcome::Retry { after: SECOND, error: "it failed".to_owned() };
    let end = Settlement { id: id(1), started_at_ms, key: None, unstarted: 1, outcome: failed };
    assert!(table.settle(&worker(1), &end));
    assert_eq!((table.state(1), table.rows[&id(1)].attempts), (Some(State::Scheduled), 1));
}

#[test]
fn d11_the_end_of_an_attempt_is_none_of_a_later_one_of_the_same_worker() {
    let mut table = Table::of([mail(1)]);
    table.take(1);
    let first = Settlement {
        id: id(1),
        started_at_ms: 0,
        key: None,
        unstarted: 0,
        outcome: Outcome::Released { started: false },
    };
    assert!(table.settle(&worker(1), &first));
    table.passes(SECOND);
    table.take(1);
    assert!(!table.settle(&worker(1), &first), "it was told twice, or arrives late");
    assert_eq!(table.state(1), Some(State::Running));
    assert!(table.settle(&worker(1), &Settlement { outcome: Outcome::Done, ..first }), "done is done");
}

#[test]
fn q17_what_ended_well_is_kept_for_a_worker_that_asks_for_that() {
    let mut table = Table::of([keyed(1), keyed(2)]);
    let lease = Lease { keeps_done: true, ..worker(1) };
    table.take(1);
    let end =
        Settlement { id: id(1), started_at_ms: 0, key: Some("a".to_owned()), unstarted: 0, outcome: Outcome::Done };
    table.settle(&lease, &end);
    assert_eq!(table.state(1), Some(State::Done));
    assert_eq!(table.take(1), [2]);
    assert_eq!((table.cancel(id(1)), table.replay(id(1))), (0, 0));
    table.passes(2 * SECOND);
    assert_eq!((table.prune(Ended::Otherwise, SECOND), table.prune(Ended::Well, SECOND)), (0, 1));
}

#[test]
fn d21_it_is_given_up_after_a_time_that_begins_with_the_first_refusal() {
    let mut table = Table::of([mail(1)]);
    for _ in 0..2 {
        table.take(1);
        table.end_of(1, Outcome::Refused { after: SECOND, error: "no such task".to_owned() });
        table.passes(SECOND);
        table.adopt("mail", Unread::Offered);
    }
    table.take(1);
    table.end_of(1, Outcome::Refused { after: SECOND, error: "no such task".to_owned() });
    assert!(table.give_up_refused(2 * SECOND).is_empty());
    table.passes(SECOND);
    assert_eq!(table.give_up_refused(2 * SECOND).len(), 1);
    assert_eq!(table.state(1), Some(State::Dead));
}

#[test]
fn d10_a_dead_letter_can_be_replayed_with_all_its_attempts_until_it_is_pruned() {
    let mut table = Table::of([mail(1), mail(2)]);
    table.take(2);
    table.end_of(1, Outcome::Dead("of no use".to_owned()));
    table.end_of(2, Outcome::Dead("of no use".to_owned()));
    assert_eq!(table.replay(id(1)), 1);
    assert_eq!((table.state(1), table.rows[&id(1)].attempts), (Some(State::Ready), 0));
    table.passes(SECOND);
    assert_eq!(table.prune(Ended::Otherwise, SECOND), 0);
    table.passes(SECOND);
    assert_eq!(table.prune(Ended::Otherwise, SECOND), 1);
    assert_eq!(table.replay(id(2)), 0);
}
