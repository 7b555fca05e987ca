//! The options of `atomic!`, as one table: what is parsed, which contradict each other, and what
//! the documentation says of them.
//!
//! Must not know: what an option expands to.

/// One option.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) on: Backends,
    /// Whether it says which lock BEGIN takes: there is one.
    is_lock: bool,
    /// What it does: a sentence's end, in Markdown.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the documentation's table, which a test makes"))]
    meaning: &'static str,
}

/// What is written behind the name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Level,
    Count,
    Path,
}

/// The backends that have an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Backends {
    All,
    Postgres,
    PostgresAndMysql,
    Sqlite,
}

pub(super) const LEVELS: [&str; 4] = ["Serializable", "RepeatableRead", "ReadCommitted", "ReadUncommitted"];

const fn row(name: &'static str, takes: Takes, on: Backends, meaning: &'static str) -> Row {
    Row { name, takes, on, is_lock: false, meaning }
}

const fn lock(name: &'static str, meaning: &'static str) -> Row {
    Row { name, takes: Takes::Nothing, on: Backends::Sqlite, is_lock: true, meaning }
}

pub(super) const TABLE: [Row; 8] = [
    row("isolation", Takes::Level, Backends::PostgresAndMysql, "sets the isolation level"),
    row("read_only", Takes::Nothing, Backends::PostgresAndMysql, "forbids writing"),
    row(
        "deferrable",
        Takes::Nothing,
        Backends::Postgres,
        "waits for a snapshot on which a serializable read-only transaction cannot fail",
    ),
    lock("immediate", "takes the write lock at the start"),
    lock("exclusive", "as `immediate`, and in rollback-journal mode nobody else reads meanwhile"),
    row("outermost", Takes::Nothing, Backends::All, "nested, it is refused with `AlreadyInTransaction` before any SQL"),
    row(
        "retries",
        Takes::Count,
        Backends::All,
        "runs the outermost block again, `n` times at most, after a serialisation failure, a deadlock or `SQLITE_BUSY`",
    ),
    row("crate", Takes::Path, Backends::All, "where `diesel_deferred` is re-exported by another crate"),
];

impl Row {
    /// The row of an option.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|row| row.name == name)
    }

    /// Why no transaction has both, where none has.
    pub(super) fn contradicts(&self, other: &Self) -> Option<String> {
        let (name, that) = (self.name, other.name);
        if self.is_lock && other.is_lock {
            return Some(format!(
                "`{name}` contradicts `{that}`: a transaction begins in one of these ways; leave one of them out"
            ));
        }
        let (here, there) = (self.on, other.on);
        here.excludes(there).then(|| {
            format!(
                "`{name}` contradicts `{that}`: {} has the one, {} the other",
                here.names(),
                there.names_with_verb()
            )
        })
    }

    /// As it is written, for messages: `isolation = …`.
    fn written(&self) -> String {
        let value = if self.takes == Takes::Nothing { "" } else { " = …" };
        format!("`{}{value}`", self.name)
    }
}

impl Backends {
    fn excludes(self, other: Self) -> bool {
        self == Self::Sqlite && matches!(other, Self::Postgres | Self::PostgresAndMysql)
    }

    fn names(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Postgres => "PostgreSQL",
            Self::PostgresAndMysql => "PostgreSQL, MySQL/MariaDB",
            Self::Sqlite => "SQLite",
        }
    }

    fn names_with_verb(self) -> &'static str {
        match self {
            Self::PostgresAndMysql => "PostgreSQL and MySQL have",
            Self::All | Self::Postgres | Self::Sqlite => "PostgreSQL has",
        }
    }
}

/// All of them, as they are written, for messages.
pub(super) fn expected() -> String {
    TABLE.iter().map(Row::written).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{LEVELS, TABLE, Takes};

    /// The table of the documentation.
    fn markdown() -> String {
        let mut table = String::from("| option | backends | meaning |\n|---|---|---|\n");
        for row in &TABLE {
            let option = match row.takes {
                Takes::Nothing => format!("`{}`", row.name),
                Takes::Level => format!("`{} = {}`, `{}`", row.name, LEVELS[0], LEVELS[1..].join("`, `")),
                Takes::Count => format!("`{} = n`", row.name),
                Takes::Path => format!("`{} = path`", row.name),
            };
            table += &format!("| {option} | {} | {} |\n", row.on.names(), row.meaning);
        }
        table
    }

    /// `UPDATE_OPTIONS=1` writes it again. The guide has the same lines.
    #[test]
    fn the_documentation_has_this_table() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = folder.join("src/atomic/options.md");
        if std::env::var_os("UPDATE_OPTIONS").is_some() {
            fs::write(&file, markdown()).unwrap();
        }
        assert_eq!(fs::read_to_string(file).unwrap(), markdown(), "run this test with UPDATE_OPTIONS=1");
        let page = fs::read_to_string(folder.join("../guide/src/options.md")).unwrap();
        assert!(page.contains(&markdown()), "the guide lacks this table:\n{}", markdown());
    }
}
