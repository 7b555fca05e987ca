//! What a process did, in whole lines that are there even when it is killed right after.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// A file that lines are added to, by several threads and processes.
#[derive(Debug, Clone)]
pub struct Journal(Arc<File>);

impl Journal {
    pub fn open(path: impl AsRef<Path>) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("a journal");
        Self(Arc::new(file))
    }

    /// Adds a line, by one write: it is there as a whole or not at all, and then the kernel has it.
    pub fn line(&self, text: &str) {
        let line = format!("{text}\n");
        let written = (&*self.0).write(line.as_bytes()).expect("written");
        assert_eq!(written, line.len(), "a line in two pieces");
    }
}
