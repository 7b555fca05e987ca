//! What must hold when all is over: the witnesses, the ids of the calls beside them, and what ran,
//! are compared from outside.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

/// A call, as its block noted it.
#[derive(Debug)]
struct Call {
    line: usize,
    block: i32,
    id: String,
    /// `plain`, `key-…`, `once-…` or `latest-…`.
    called: String,
}

/// All journals of a database, read in the order of the processes that wrote them.
#[derive(Debug, Default)]
pub struct Story {
    calls: BTreeMap<i32, Call>,
    /// When a block was about to be committed: the number of that line in the journal.
    closing: HashMap<i32, usize>,
    /// When it was over, at the latest.
    ended: HashMap<i32, usize>,
    /// Each start of a task: which line, its id, number and name.
    starts: Vec<(usize, String, i32, String)>,
    /// The number of the attempt that each id was started with last.
    attempts: HashMap<String, i32>,
    /// How often each id ended well.
    well: HashMap<String, usize>,
    /// Those that ended well in the journal that was read last.
    just_ended: HashSet<String>,
    lines: usize,
    pub tally: Tally,
}

/// In which phases processes were killed, and what ran more often than once.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub kills: usize,
    /// A block had begun, and COMMIT was not sent.
    pub before_commit: usize,
    /// COMMIT had perhaps been sent, and was not answered.
    pub in_commit: usize,
    /// Something was committed that nobody had claimed.
    pub before_claim: usize,
    /// A task ran.
    pub while_running: usize,
    /// A task had run, and its row was still there.
    pub before_ack: usize,
    pub calls: usize,
    pub committed: usize,
    /// Tasks that ended well more than once.
    pub ran_twice: usize,
    /// Tasks that began again because they were killed, and not because they failed.
    pub begun_again: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills: {} before COMMIT, {} in it, {} between COMMIT and claim, {} while a task ran, {} between run and ack; \
             {} calls, {} committed, {} begun again after a kill, {} ran twice",
            self.kills,
            self.before_commit,
            self.in_commit,
            self.before_claim,
            self.while_running,
            self.before_ack,
            self.calls,
            self.committed,
            self.begun_again,
            self.ran_twice
        )
    }
}

impl Story {
    /// Reads on, in the journal of one process; says what goes on at its end.
    pub fn read(&mut self, journal: &str, killed: bool) {
        let (mut blocks, mut running) = (BTreeMap::new(), BTreeMap::new());
        let mut over = HashSet::new();
        for line in journal.lines() {
            self.lines += 1;
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["begin", block] => drop(blocks.insert(number(block), false)),
                ["closing", block] => {
                    blocks.insert(number(block), true);
                    self.closing.insert(number(block), self.lines);
                }
                ["ended", block] => {
                    blocks.remove(&number(block));
                    self.ended.insert(number(block), self.lines);
                }
                ["call", block, at, id, called] => {
                    let call =
                        Call { line: self.lines, block: number(block), id: id.to_owned(), called: called.to_owned() };
                    self.calls.insert(number(at), call);
                }
                ["start", id, at, called, attempt] => {
                    // D19: each start spends an attempt, so that none starts more often than it may.
                    let attempt = self::number(attempt);
                    let before = self.attempts.insert(id.to_owned(), attempt).unwrap_or(0);
                    assert!(
                        before < attempt && attempt <= 20,
                        "{id} was started as attempt {before}, then as {attempt}"
                    );
                    // D11
                    assert!(!running.contains_key(id), "{id} runs twice at a time");
                    assert!(!over.contains(id), "{id} ended well, and was run again by the same worker");
                    // Q12
                    let of_its_key = |other: &&str| called.starts_with("key-") && *other == called;
                    assert!(!running.values().any(of_its_key), "two of {called} at a time");
                    running.insert(id, called);
                    self.starts.push((self.lines, id.to_owned(), number(at), called.to_owned()));
                }
                ["end", id, how] => {
                    running.remove(id).expect("it began");
                    if how == "well" {
                        over.insert(id);
                        *self.well.entry(id.to_owned()).or_default() += 1;
                    }
                }
                _ => panic!("{line}"),
            }
        }
        self.ended.extend(blocks.keys().map(|block| (*block, self.lines)));
        self.just_ended = over.into_iter().map(str::to_owned).collect();
        if killed {
            let tally = &mut self.tally;
            tally.kills += 1;
            tally.before_commit += usize::from(blocks.values().any(|closing| !closing));
            tally.in_commit += usize::from(blocks.values().any(|closing| *closing));
            tally.while_running += usize::from(!running.is_empty());
            tally.begun_again += running.len();
        } else {
            assert!(running.is_empty(), "{running:?} began and did not end");
        }
    }

    /// Whether a call has been run to its end by the process whose journal was read last.
    pub fn has_just_ended(&self, number: i32) -> bool {
        self.calls.get(&number).is_some_and(|call| self.just_ended.contains(&call.id))
    }

    /// Whether a call can be what the other one was dropped for: it waited when that one was
    /// stored, or has taken its place since.
    fn may_stand_for(&self, ran: &Call, dropped: &Call) -> bool {
        dropped.called.starts_with("latest-") || self.ended.get(&dropped.block).is_some_and(|ended| ran.line < *ended)
    }

    /// D1, D3, D4: what is committed has run, and nothing else.
    pub fn judge(&mut self, witnesses: &[i32]) {
        let committed: BTreeSet<_> = witnesses.iter().copied().collect();
        for number in &committed {
            assert!(self.calls.contains_key(number), "the witness {number} is of no call");
        }
        for (line, id, number, called) in &self.starts {
            let call = self.calls.get(number).unwrap_or_else(|| panic!("{called} {number} ran and was not called"));
            assert!(committed.contains(number), "{called} {number} ran (line {line}) and was rolled back");
            assert_eq!((&call.id, &call.called), (id, called), "{number} ran as another one than it was called");
        }
        for (number, call @ Call { block, id, called, .. }) in &self.calls {
            if !committed.contains(number) {
                continue;
            }
            let closing = self.closing.get(block);
            let closing = *closing.unwrap_or_else(|| panic!("{number} is committed, its block {block} did not end"));
            if called.starts_with("once-") || called.starts_with("latest-") {
                // Q5: another one of its key that waited may have run in its place, but then it
                // began after this call.
                let ran = self.starts.iter().any(|(line, _, ran, other)| {
                    other == called && *line > closing && self.may_stand_for(&self.calls[ran], call)
                });
                assert!(ran, "{called} {number} is committed, and none of its key that waited ran after it");
            } else {
                assert!(self.well.contains_key(id), "{called} {number} is committed, and never ran to its end");
            }
        }
        self.tally.calls = self.calls.len();
        self.tally.committed = committed.len();
        self.tally.ran_twice = self.well.values().filter(|times| **times > 1).count();
    }
}

fn number(word: &str) -> i32 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}
