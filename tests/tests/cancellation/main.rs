//! RULES A2 and A3: what a dropped future leaves behind, wherever it was.

mod after_commit;
mod every_poll;
mod harness;
mod nested;
mod pools;
mod recovery;
mod runtimes;
mod statements;
