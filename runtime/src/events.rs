//! That the page of events, `guide/src/events.md`, is true: it has each event that the code emits, with its
//! level and its fields, and no other one. Spans are on a page of their own.
//!
//! Must not know: when an event is emitted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The level of an event, and its fields.
type Event = (String, BTreeSet<String>);

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// The events of a file's text, by their messages.
fn events_of(code: &str, events: &mut BTreeMap<String, Event>) {
    for level in LEVELS {
        let emits = format!("tracing::{level}!(");
        for (at, _) in code.match_indices(&emits) {
            let mut parts = parts_of(&code[at + emits.len()..]);
            let message = literal(&parts.pop().expect("a message"));
            let fields: BTreeSet<_> = parts.iter().map(|part| field(part)).collect();
            let mut messages = if message == "{trouble}" { troubles() } else { vec![message] };
            if fields.contains("queue") && messages.len() > 1 {
                // That a database cannot be reached, which comes first, is not about one queue.
                messages.remove(0);
            }
            for message in messages {
                let event = events.entry(message).or_insert_with(|| (level.to_uppercase(), BTreeSet::new()));
                event.1.extend(fields.iter().cloned());
            }
        }
    }
}

/// What a worker says of its database.
fn troubles() -> Vec<String> {
    let code = include_str!("durable/worker/source/trouble.rs");
    let (_, names) = code.split_once("impl fmt::Display for Trouble {").expect("how they are told");
    let (names, _) = names.split_once("\n}\n").expect("the end");
    let of_name = |name: &str| {
        let (_, text) = name.split_once("=> ").expect("what it says");
        let end = text.rfind('"').expect("a literal");
        literal(text[..=end].trim_start_matches(['{', ' ', '\n']))
    };
    names.split("Self::").skip(1).map(of_name).collect()
}

/// The parts of a macro's input, up to its end.
fn parts_of(code: &str) -> Vec<String> {
    let (mut parts, mut depth, mut in_literal, mut escaped) = (vec![String::new()], 0, false, false);
    for letter in code.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if in_literal => escaped = true,
            '"' => in_literal = !in_literal,
            _ if in_literal => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("a part").push(letter);
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// What a literal says. Where a line of it ends in a backslash, it goes on with the next word.
fn literal(part: &str) -> String {
    let text = part.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("a message");
    let mut lines = text.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

fn field(part: &str) -> String {
    let name = part.split('=').next().unwrap_or_default().trim();
    name.trim_start_matches(['%', '?']).to_owned()
}

/// The events of all files below here.
fn emitted_in(folder: &Path, events: &mut BTreeMap<String, Event>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            // Which emits no events.
            if !path.ends_with("src/spans") {
                emitted_in(&path, events);
            }
        } else if path.file_name().is_some_and(|name| name != "events.rs") {
            let code = fs::read_to_string(&path).expect("a text");
            let others = ["use tracing", "tracing::event!", "tracing::span!", "_span!("];
            assert!(!others.iter().any(|other| code.contains(other)), "{} emits otherwise", path.display());
            events_of(&code, events);
        }
    }
}

/// The events of the page, by their messages.
fn told_of(page: &str) -> BTreeMap<String, Event> {
    let sections = page.split("\n### ").skip(1).map(|section| {
        let (message, rest) = section.split_once('\n').expect("something about it");
        let rest = rest.split("\n## ").next().unwrap_or_default();
        let line = |name: &str| rest.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let fields = line("* Fields: ").split(", ").map(|field| field.trim_matches('`').to_owned());
        let told = rest.lines().filter(|line| line.starts_with("* ")).count();
        assert!(told > 1 + usize::from(rest.contains("* Fields: ")), "nothing is said about: {message}");
        (message.to_owned(), (line("* Level: ").to_owned(), fields.filter(|field| !field.is_empty()).collect()))
    });
    sections.collect()
}

#[test]
fn the_page_has_each_event() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut emitted = BTreeMap::new();
    emitted_in(&package.join("src"), &mut emitted);
    let pages = package.join("../guide/src");
    if !pages.exists() {
        // The package alone, which has no pages.
        return;
    }
    let page = fs::read_to_string(pages.join("events.md")).expect("the page");
    let told = told_of(&page);
    assert!(emitted.len() > 20, "only {emitted:#?}");
    let missing: Vec<_> = emitted.iter().filter(|(message, event)| told.get(*message) != Some(event)).collect();
    assert!(missing.is_empty(), "the page does not have these, or otherwise: {missing:#?}");
    let gone: Vec<_> = told.keys().filter(|message| !emitted.contains_key(*message)).collect();
    assert!(gone.is_empty(), "nobody emits these any more: {gone:#?}");
}
