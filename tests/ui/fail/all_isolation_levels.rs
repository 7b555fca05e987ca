//! A `match` that breaks when there is one more level.

use diesel_deferred::IsolationLevel;

fn is_strict(level: IsolationLevel) -> bool {
    match level {
        IsolationLevel::Serializable | IsolationLevel::RepeatableRead => true,
        IsolationLevel::ReadCommitted | IsolationLevel::ReadUncommitted => false,
    }
}

fn main() {
    is_strict(IsolationLevel::Serializable);
}
