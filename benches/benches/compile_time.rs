//! What the macros cost at compile time: a crate with 200 tasks and 200 `atomic!` blocks of 20
//! statements, beside the same with plain functions, `conn.transaction` and closures written by
//! hand.
//!
//! Both crates are members of one generated workspace, so that all they depend on is built once,
//! before anything is measured. They take turns.
//!
//! `cargo bench -p diesel-deferred-benches --profile dev --bench compile_time`; `--test` compiles
//! two blocks once.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How often each cell is measured.
const RUNS: usize = 7;

/// How many tasks and blocks there are.
const BLOCKS: usize = 200;

fn main() -> Result<()> {
    let once = env::args().any(|argument| argument == "--test");
    let (blocks, runs) = if once { (2, 1) } else { (BLOCKS, RUNS) };
    let workspace = Workspace::generate(blocks)?;
    for command in ["check", "build"] {
        for side in Side::BOTH {
            workspace.run(command, side, false)?;
        }
        if once {
            // What is left to be seen is that both compile.
            return Ok(());
        }
    }
    println!("{BLOCKS} tasks and {BLOCKS} blocks of 20 statements, seconds: minimum and median of {RUNS} runs\n");
    println!("| | by hand | with the macros | minima | medians |\n|---|--:|--:|--:|--:|");
    for (name, command, incremental) in [
        ("`cargo check`", "check", false),
        ("`cargo build`", "build", false),
        ("`cargo check`, incremental, one line changed", "check", true),
    ] {
        let [mut by_hand, mut ours] = [const { Vec::new() }; 2];
        if incremental {
            for side in Side::BOTH {
                workspace.run(command, side, incremental)?;
            }
        }
        for run in 0..runs {
            for side in Side::BOTH {
                workspace.change(side, blocks, run)?;
                let times = if side == Side::Ours { &mut ours } else { &mut by_hand };
                times.push(workspace.run(command, side, incremental)?);
            }
        }
        let ([least_by_hand, by_hand], [least_ours, ours]) = (least_and_median(by_hand), least_and_median(ours));
        println!(
            "| {name} | {least_by_hand:.2} / {by_hand:.2} | {least_ours:.2} / {ours:.2} | {:.2} | {:.2} |",
            least_ours / least_by_hand,
            ours / by_hand
        );
    }
    Ok(())
}

fn least_and_median(mut times: Vec<Duration>) -> [f64; 2] {
    times.sort_unstable();
    [times[0], times[times.len() / 2]].map(|time| time.as_secs_f64())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    ByHand,
    Ours,
}

impl Side {
    const BOTH: [Self; 2] = [Self::ByHand, Self::Ours];

    fn name(self) -> &'static str {
        match self {
            Self::ByHand => "by_hand",
            Self::Ours => "ours",
        }
    }

    /// A function and what calls it 7 times in a block.
    fn source(self, number: usize) -> String {
        let (task, connection, begin, end) = match self {
            Self::Ours => ("#[deferred_task]\n", "DeferredConnection<SqliteConnection>", "atomic!(conn, {", "})"),
            Self::ByHand => (
                "",
                "SqliteConnection",
                "let mut hooks: Vec<Box<dyn FnOnce() + Send>> = Vec::new();\n    conn.transaction(|conn| -> QueryResult<()> {",
                "})?;\n    for hook in hooks {\n        hook();\n    }\n    Ok(())",
            ),
        };
        let call = |id: &str, note: &str| match self {
            Self::Ours => format!("task_{number}({id}, {note});"),
            Self::ByHand => format!(
                "{{ let (id, note) = ({id}, String::from({note})); hooks.push(Box::new(move || task_{number}(id, &note))); }}"
            ),
        };
        format!(
            r#"
{task}fn task_{number}(id: i32, note: &str) {{
    std::hint::black_box((id, note));
}}

pub fn block_{number}(conn: &mut {connection}, id: i32, name: &str) -> QueryResult<()> {{
    {begin}
        let first = id + 1;
        let label = name.to_uppercase();
        diesel::insert_into(users::table).values((users::id.eq(id), users::name.eq(name))).execute(conn)?;
        {call_first}
        diesel::insert_into(users::table).values((users::id.eq(first), users::name.eq(&label))).execute(conn)?;
        {call_second}
        let count: i64 = users::table.filter(users::name.eq(name)).count().get_result(conn)?;
        if count > 1 {{
            {call_third}
        }}
        let names: Vec<String> = users::table.select(users::name).order(users::id).load(conn)?;
        for (at, name) in names.iter().enumerate() {{
            {call_fourth}
        }}
        diesel::update(users::table.find(id)).set(users::name.eq("changed")).execute(conn)?;
        {call_fifth}
        diesel::delete(users::table.find(first)).execute(conn)?;
        match count {{
            0 => {{
                {call_sixth}
            }}
            _ => println!("{{count}} of {{label}}"),
        }}
        let last = users::table.select(users::id).order(users::id.desc()).first::<i32>(conn).optional()?;
        if let Some(last) = last {{
            {call_seventh}
        }}
        let total = names.len() + label.len();
        println!("{{total}}");
        std::hint::black_box(total);
        std::hint::black_box(first); // what is changed: 0
        Ok(())
    {end}
}}
"#,
            call_first = call("id", "name"),
            call_second = call("first", "&label"),
            call_third = call("3", "name"),
            call_fourth = call("at as i32", "name"),
            call_fifth = call("5", "\"changed\""),
            call_sixth = call("6", "&label"),
            call_seventh = call("last", "&label"),
        )
    }

    fn prelude(self) -> &'static str {
        match self {
            Self::Ours => "use diesel_deferred::{DeferredConnection, atomic, deferred_task};\n",
            Self::ByHand => "",
        }
    }
}

/// The generated workspace.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    fn generate(blocks: usize) -> Result<Self> {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        let ours = benches.parent().ok_or("the benches are in a workspace")?;
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_time");
        let _ = fs::remove_dir_all(&root);
        for side in Side::BOTH {
            let package = root.join(side.name());
            fs::create_dir_all(package.join("src"))?;
            fs::write(package.join("Cargo.toml"), manifest(side, ours))?;
            let mut source = String::from("#![allow(missing_docs)]\nuse diesel::prelude::*;\n");
            source.push_str(side.prelude());
            source.push_str("diesel::table! { users { id -> Integer, name -> Text, } }\n");
            for number in 0..blocks {
                source.push_str(&side.source(number));
            }
            fs::write(package.join("src/lib.rs"), source)?;
        }
        fs::write(root.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\nmembers = [\"by_hand\", \"ours\"]\n")?;
        // The same versions as here.
        fs::copy(ours.join("Cargo.lock"), root.join("Cargo.lock"))?;
        Ok(Self { target: root.with_extension("target"), root })
    }

    /// Changes a line in the middle, so that the crate has to be compiled.
    fn change(&self, side: Side, blocks: usize, run: usize) -> Result<()> {
        let path = self.root.join(side.name()).join("src/lib.rs");
        let source = fs::read_to_string(&path)?;
        let begin = source.find(&format!("pub fn block_{}(", blocks / 2)).ok_or("there is that block")?;
        let (before, block) = source.split_at(begin);
        let (line, rest) = block.split_once("black_box(first").ok_or("there is that line")?;
        let (_, rest) = rest.split_once('\n').ok_or("there is a line behind it")?;
        let mut changed = format!("{before}{line}black_box(first");
        writeln!(changed, " + {run}); // what is changed")?;
        changed.push_str(rest);
        fs::write(path, changed)?;
        Ok(())
    }

    /// Compiles one of the crates; says how long that took.
    fn run(&self, command: &str, side: Side, incremental: bool) -> Result<Duration> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([command, "--offline", "--quiet", "--package", side.name()])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", if incremental { "1" } else { "0" })
            .stdout(Stdio::null());
        let begin = Instant::now();
        let status = cargo.status()?;
        let time = begin.elapsed();
        if !status.success() {
            return Err(format!("{cargo:?} failed: {status}").into());
        }
        Ok(time)
    }
}

fn manifest(side: Side, ours: &Path) -> String {
    let runtime = ours.join("runtime");
    let mut manifest = format!(
        "[package]\nname = \"{}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         diesel = {{ version = \"~2.3\", default-features = false, features = [\"sqlite\"] }}\n",
        side.name()
    );
    if side == Side::Ours {
        manifest.push_str(&format!("diesel-deferred = {{ path = {runtime:?}, features = [\"sqlite\"] }}\n"));
    }
    manifest
}
