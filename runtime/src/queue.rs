//! The hook queue of one connection: flat lists and one mark for each open transaction depth.
//!
//! Must not know: Diesel, connections, what a hook is. It is told when a depth opens, merges or is
//! rolled back, and says which hooks that leaves. Releasing a depth is O(1), rolling one back costs
//! what it drops.

use std::cmp::Reverse;

use crate::guarded::Guarded;

/// The lengths of the lists when a depth was opened: what lies beyond belongs to that depth.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    commit: usize,
    rollback: usize,
    before: usize,
    calls: Calls,
}

/// How many calls wait to be stored, and how many bytes they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

/// What waits on one connection. It may be looked at from several threads, although hooks may not.
#[derive(Debug)]
pub(crate) struct Queue<H, B, C> {
    lists: Guarded<Lists<H, B, C>>,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Lists<H, B, C> {
    commit: Vec<H>,
    /// With the depth of registration: when they run, the deepest go first.
    rollback: Vec<(usize, H)>,
    before: Vec<B>,
    /// Calls that are to be stored before COMMIT.
    calls: Vec<C>,
    /// What all of these take.
    call_bytes: usize,
}

impl<H, B, C> Lists<H, B, C> {
    const fn new() -> Self {
        Self { commit: Vec::new(), rollback: Vec::new(), before: Vec::new(), calls: Vec::new(), call_bytes: 0 }
    }

    fn calls(&self) -> Calls {
        Calls { count: self.calls.len(), bytes: self.call_bytes }
    }

    /// The calls that were made since this many waited.
    fn take_calls(&mut self, since: Calls) -> Vec<C> {
        self.call_bytes = since.bytes;
        take_from(&mut self.calls, since.count)
    }
}

impl<H, B, C> Default for Lists<H, B, C> {
    fn default() -> Self {
        Self::new()
    }
}

/// What was taken out of the queue because its transaction did not commit.
#[derive(Debug)]
pub(crate) struct Dropped<H, B, C> {
    /// Commit hooks, which will never run.
    pub(crate) commit: Vec<H>,
    /// Rollback hooks, in the order in which they are to run.
    pub(crate) rollback: Vec<H>,
    /// Hooks of a COMMIT that will not be.
    pub(crate) before: Vec<B>,
    /// Calls that were not stored.
    pub(crate) calls: Vec<C>,
}

/// Buffers of more than this many hooks are not kept for the next transaction: what a busy
/// connection needs again is, what a bulk load left behind is not. About 90 KB.
const KEPT_CAPACITY: usize = 1024;

impl<H, B, C> Queue<H, B, C> {
    pub(crate) const fn new() -> Self {
        Self { lists: Guarded::new(Lists::new()), marks: Vec::new() }
    }

    /// How many depths are open.
    pub(crate) fn depth(&self) -> usize {
        self.marks.len()
    }

    /// A transaction or savepoint was opened.
    pub(crate) fn begin(&mut self) {
        let lists = self.lists.get_mut();
        self.marks.push(Mark {
            commit: lists.commit.len(),
            rollback: lists.rollback.len(),
            before: lists.before.len(),
            calls: lists.calls(),
        });
    }

    /// Opens depths until there are `depth` of them.
    pub(crate) fn begin_up_to(&mut self, depth: usize) {
        while self.marks.len() < depth {
            self.begin();
        }
    }

    /// The innermost depth was released: its hooks belong to the one around it from now on.
    pub(crate) fn release(&mut self) {
        self.marks.pop();
    }

    /// Everything above `depth` was rolled back, or is known to be gone: takes it out.
    pub(crate) fn rollback_to(&mut self, depth: usize) -> Dropped<H, B, C> {
        let Some(&mark) = self.marks.get(depth) else {
            return Dropped { commit: Vec::new(), rollback: Vec::new(), before: Vec::new(), calls: Vec::new() };
        };
        self.marks.truncate(depth);
        let lists = self.lists.get_mut();
        let mut rollback = take_from(&mut lists.rollback, mark.rollback);
        // Undoing goes backwards: deepest first, and within one depth the latest first (a stable
        // sort of the reverse).
        rollback.reverse();
        rollback.sort_by_key(|(depth, _)| Reverse(*depth));
        Dropped {
            commit: take_from(&mut lists.commit, mark.commit),
            rollback: rollback.into_iter().map(|(_, hook)| hook).collect(),
            before: take_from(&mut lists.before, mark.before),
            calls: lists.take_calls(mark.calls),
        }
    }

    pub(crate) fn after_commit(&mut self, hook: H) {
        self.lists.get_mut().commit.push(hook);
    }

    /// Takes over `hooks`, leaving an empty buffer.
    #[inline]
    pub(crate) fn append_after_commit(&mut self, hooks: &mut Vec<H>) {
        let commit = &mut self.lists.get_mut().commit;
        if commit.is_empty() {
            std::mem::swap(commit, hooks);
        } else {
            commit.append(hooks);
            if hooks.capacity() > KEPT_CAPACITY {
                *hooks = Vec::new();
            }
        }
    }

    pub(crate) fn after_rollback(&mut self, hook: H) {
        self.lists.get_mut().rollback.push((self.marks.len(), hook));
    }

    pub(crate) fn before_commit(&mut self, hook: B) {
        self.lists.get_mut().before.push(hook);
    }

    /// A call that is to be stored, which takes so many bytes.
    #[cfg(feature = "durable")]
    pub(crate) fn store(&mut self, call: C, bytes: usize) {
        let lists = self.lists.get_mut();
        lists.calls.push(call);
        lists.call_bytes += bytes;
    }

    /// Takes over `calls` that are to be stored, which take so many bytes.
    #[inline]
    pub(crate) fn append_calls(&mut self, calls: &mut Vec<C>, bytes: usize) {
        if !calls.is_empty() {
            let lists = self.lists.get_mut();
            lists.calls.append(calls);
            lists.call_bytes += bytes;
        }
    }

    /// Whether any call is to be stored.
    pub(crate) fn has_calls(&mut self) -> bool {
        !self.lists.get_mut().calls.is_empty()
    }

    /// The calls of all depths that are to be stored.
    #[cfg(feature = "durable")]
    pub(crate) fn calls(&mut self) -> Calls {
        self.lists.get_mut().calls()
    }

    /// Those of the innermost depth.
    #[cfg(feature = "durable")]
    pub(crate) fn innermost_calls(&mut self) -> Calls {
        let (all, before) = (self.calls(), self.calls_before_innermost());
        Calls { count: all.count - before.count, bytes: all.bytes - before.bytes }
    }

    /// Takes the calls of the innermost depth: they are stored in its savepoint.
    #[cfg(feature = "durable")]
    pub(crate) fn take_innermost_calls(&mut self) -> Vec<C> {
        let before = self.calls_before_innermost();
        self.lists.get_mut().take_calls(before)
    }

    #[cfg(feature = "durable")]
    fn calls_before_innermost(&self) -> Calls {
        self.marks.last().map_or_else(Calls::default, |mark| mark.calls)
    }

    /// How many commit hooks wait, and how many calls.
    #[cfg(feature = "testing")]
    pub(crate) fn counts(&mut self) -> (usize, usize) {
        let lists = self.lists.get_mut();
        (lists.commit.len(), lists.calls.len())
    }

    /// Takes the commit hooks that were registered since so many waited.
    #[cfg(feature = "testing")]
    pub(crate) fn take_commit_since(&mut self, count: usize) -> Vec<H> {
        let commit = &mut self.lists.get_mut().commit;
        let count = count.min(commit.len());
        take_from(commit, count)
    }

    /// Whether anything waits that a commit has to be proven for.
    pub(crate) fn has_commit_hooks(&mut self) -> bool {
        !self.lists.get_mut().commit.is_empty()
    }

    /// Whether anything waits for a rollback.
    pub(crate) fn has_rollback_hooks(&mut self) -> bool {
        !self.lists.get_mut().rollback.is_empty()
    }

    /// Whether anything runs before COMMIT.
    pub(crate) fn has_before_commit(&mut self) -> bool {
        !self.lists.get_mut().before.is_empty()
    }

    /// The hooks that run before COMMIT; running one may register more.
    pub(crate) fn take_before_commit(&mut self) -> Vec<B> {
        for mark in &mut self.marks {
            mark.before = 0;
        }
        std::mem::take(&mut self.lists.get_mut().before)
    }

    /// The outermost transaction, the one above `depth`, committed, and nothing waited for that:
    /// closes it, and says so.
    #[inline]
    pub(crate) fn close_if_empty(&mut self, depth: usize) -> bool {
        let lists = self.lists.get_mut();
        let empty = self
            .marks
            .get(depth)
            .is_none_or(|mark| lists.commit.len() == mark.commit && lists.rollback.len() == mark.rollback);
        if empty {
            self.marks.truncate(depth);
        }
        empty
    }

    /// The outermost transaction, the one above `depth`, committed: closes it. Returns its commit
    /// hooks, which are to run now, and its rollback hooks, which have lost their purpose.
    #[inline]
    pub(crate) fn close_committed(&mut self, depth: usize) -> (Vec<H>, Vec<(usize, H)>) {
        let Some(&mark) = self.marks.get(depth) else { return (Vec::new(), Vec::new()) };
        self.marks.truncate(depth);
        let lists = self.lists.get_mut();
        (take_from(&mut lists.commit, mark.commit), take_from(&mut lists.rollback, mark.rollback))
    }

    /// Gives an emptied buffer back, so that the next transaction need not allocate.
    #[inline]
    pub(crate) fn recycle(&mut self, buffer: Vec<H>) {
        let commit = &mut self.lists.get_mut().commit;
        if commit.is_empty() && buffer.is_empty() && (1..=KEPT_CAPACITY).contains(&buffer.capacity()) {
            *commit = buffer;
        }
    }

    /// The commit hooks.
    pub(crate) fn waiting_for_commit(&mut self) -> impl Iterator<Item = &H> {
        self.lists.get_mut().commit.iter()
    }

    /// Shows what waits.
    pub(crate) fn view<R>(&self, view: impl FnOnce(View<'_, H, B, C>) -> R) -> R {
        self.lists.view(|lists| view(View { lists, marks: &self.marks }))
    }
}

/// What waits, with the depth that each belongs to now.
pub(crate) struct View<'q, H, B, C> {
    lists: &'q Lists<H, B, C>,
    marks: &'q [Mark],
}

impl<'q, H, B, C> View<'q, H, B, C> {
    /// The commit hooks.
    pub(crate) fn commit_hooks(&self) -> impl Iterator<Item = (usize, &'q H)> {
        self.lists.commit.iter().enumerate().map(|(at, hook)| (self.depth_of(at, |mark| mark.commit), hook))
    }

    /// The rollback hooks.
    pub(crate) fn rollback_hooks(&self) -> impl Iterator<Item = (usize, &'q H)> {
        self.lists.rollback.iter().enumerate().map(|(at, (_, hook))| (self.depth_of(at, |mark| mark.rollback), hook))
    }

    /// The before-commit hooks.
    pub(crate) fn before_hooks(&self) -> impl Iterator<Item = (usize, &'q B)> {
        self.lists.before.iter().enumerate().map(|(at, hook)| (self.depth_of(at, |mark| mark.before), hook))
    }

    /// The calls that are to be stored.
    pub(crate) fn waiting_calls(&self) -> impl Iterator<Item = (usize, &'q C)> {
        self.lists.calls.iter().enumerate().map(|(at, call)| (self.depth_of(at, |mark| mark.calls.count), call))
    }

    /// How many depths were open already when the hook at this place of its list was registered.
    fn depth_of(&self, place: usize, start: fn(&Mark) -> usize) -> usize {
        self.marks.partition_point(|mark| start(mark) <= place)
    }
}

/// The elements from `start` on. Unlike `split_off` it hands the whole buffer over where it can,
/// and leaves it where it is when there is nothing to take: the next transaction has use for it.
#[inline]
fn take_from<T>(list: &mut Vec<T>, start: usize) -> Vec<T> {
    if list.len() == start {
        Vec::new()
    } else if start == 0 {
        std::mem::take(list)
    } else {
        list.split_off(start)
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    #[test]
    fn a_released_depth_merges_and_a_rolled_back_one_is_dropped() {
        let mut queue = Queue::<_, (), ()>::new();
        queue.begin();
        queue.after_commit(1);
        queue.begin();
        queue.after_commit(2);
        queue.begin();
        queue.after_commit(3);
        queue.release();
        assert_eq!(queue.rollback_to(1).commit, [2, 3]);
        queue.begin();
        queue.after_commit(4);
        queue.release();
        queue.after_commit(5);
        assert_eq!(queue.close_committed(0), (vec![1, 4, 5], vec![]));
        assert_eq!(queue.depth(), 0);
    }

    #[test]
    fn rollback_hooks_run_deepest_first_and_latest_first() {
        let mut queue = Queue::<_, (), ()>::new();
        queue.begin();
        queue.after_rollback("outer 1");
        queue.begin();
        queue.after_rollback("inner 1");
        queue.after_rollback("inner 2");
        queue.release();
        queue.after_rollback("outer 2");
        assert_eq!(queue.rollback_to(0).rollback, ["inner 2", "inner 1", "outer 2", "outer 1"]);
    }

    #[cfg(feature = "durable")]
    #[test]
    fn bytes_of_calls_go_where_the_calls_go() {
        let mut queue = Queue::<(), (), _>::new();
        let of = |count, bytes| super::Calls { count, bytes };
        queue.begin();
        queue.store(1, 10);
        queue.begin();
        queue.append_calls(&mut vec![2, 3], 50);
        assert_eq!((queue.calls(), queue.innermost_calls()), (of(3, 60), of(2, 50)));
        queue.begin();
        queue.store(4, 100);
        assert_eq!(queue.take_innermost_calls(), [4]);
        assert_eq!((queue.calls(), queue.innermost_calls()), (of(3, 60), of(0, 0)));
        queue.release();
        queue.release();
        assert_eq!(queue.innermost_calls(), of(3, 60));
        queue.begin();
        queue.store(5, 1_000);
        queue.rollback_to(1);
        assert_eq!(queue.calls(), of(3, 60));
        queue.rollback_to(0);
        assert_eq!(queue.calls(), of(0, 0));
    }

    fn listed(queue: &Queue<&'static str, (), ()>) -> Vec<(usize, &'static str)> {
        queue.view(|waiting| waiting.commit_hooks().map(|(depth, hook)| (depth, *hook)).collect())
    }

    #[test]
    fn a_hook_is_listed_at_the_depth_that_it_belongs_to_now() {
        let mut queue = Queue::<_, (), ()>::new();
        queue.begin();
        queue.begin();
        queue.after_commit("merged");
        queue.release();
        queue.begin();
        queue.after_commit("inner");
        assert_eq!(listed(&queue), [(1, "merged"), (2, "inner")]);
    }
}
