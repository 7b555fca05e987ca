//! C23: what holds a task that is not reached, all of it in one crate; see `shapes/mod.rs`. Each of its
//! functions has a mistake, and each mistake is to have a message of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

#[path = "../../shapes/mod.rs"]
mod shapes;

/// An error of the compiler's.
struct Message {
    text: String,
    lines: Vec<u64>,
}

#[test]
fn c23_a_task_that_is_not_reached_does_not_compile() {
    let by_type = shapes::Crate::refused_by_type();
    assert_refused(&by_type, "by-type", |text| {
        [
            "this task is never registered",
            "the tasks in this value are never registered",
            "`let _ =` drops this task: it never runs",
        ]
        .contains(&text)
    });
}

/// There it is the compiler's own lint that looks, which says of a task what to write.
#[test]
fn c23_a_task_that_a_macro_drops_does_not_compile() {
    let in_macros = shapes::Crate::refused_in_macros();
    assert_refused(&in_macros, "in-macros", |text| text.starts_with("unused ") && text.ends_with("that must be used"));
}

fn assert_refused(code: &shapes::Crate, name: &str, is_ours: impl Fn(&str) -> bool) {
    let messages = errors_of(&code.code, name);
    let mut wrong = Vec::new();
    for refused in &code.refused {
        let about: Vec<_> = messages
            .iter()
            .filter(|message| message.lines.iter().any(|line| refused.lines.contains(&(*line as usize))))
            .map(|message| message.text.as_str())
            .collect();
        if about.is_empty() || !about.iter().all(|text| is_ours(text)) {
            wrong.push((refused.name.as_str(), about));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are not refused in our words: {wrong:#?}", wrong.len(), code.refused.len());
}

/// What the compiler says of a crate of this code.
fn errors_of(code: &str, name: &str) -> Vec<Message> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shapes").join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace");
    write(&folder.join("src/lib.rs"), code);
    // No backend: what is refused is so on each, and there is little to build.
    let manifest = format!(
        "[package]\nname = \"shapes-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n\
         diesel-deferred = {{ path = {:?} }}\ndiesel = {{ version = \"~2.3\", default-features = false }}\n",
        root.join("runtime")
    );
    write(&folder.join("Cargo.toml"), &manifest);
    write(&folder.join("Cargo.lock"), &fs::read_to_string(root.join("Cargo.lock")).expect("it is checked in"));
    let output = Command::new(env::var_os("CARGO").expect("run by cargo"))
        .args(["check", "--offline", "--message-format=json", "--target-dir"])
        .arg(target())
        .current_dir(&folder)
        .output()
        .expect("cargo is there");
    let messages: Vec<_> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|line| line["reason"] == "compiler-message" && line["message"]["level"] == "error")
        .map(|line| message(&line["message"]))
        .collect();
    assert!(!messages.is_empty(), "cargo said: {}", String::from_utf8_lossy(&output.stderr));
    messages
}

fn message(message: &Value) -> Message {
    let text = message["message"].as_str().unwrap_or_default().to_owned();
    let spans = message["spans"].as_array().map(Vec::as_slice).unwrap_or_default();
    let lines = spans.iter().filter(|span| span["is_primary"] == true).filter_map(|span| span["line_start"].as_u64());
    Message { text, lines: lines.collect() }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("shapes").join("target")
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("in a folder")).expect("cargo's folder can be written to");
    fs::write(file, text).expect("cargo's folder can be written to");
}
