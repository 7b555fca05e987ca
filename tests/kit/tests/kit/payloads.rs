//! `payloads!`: the golden file.

use std::fs;

use diesel_deferred::testing::payloads::{Program, Sample, Update, check_and_update, sample};
use diesel_deferred::{deferred_task, payloads};

use crate::tasks::{assert_says, keyed, message_of, stored};

#[deferred_task(durable, name = "reports::send", was = "reports::mail")]
fn send_report(id: i32, to: &str) {
    let _ = (id, to);
}

#[deferred_task(durable)]
fn measured(length: u8) {
    let _ = length;
}

fn samples() -> Vec<Sample> {
    vec![sample(stored(1, "text")), sample(keyed(1, 2)), sample(send_report(1, "ada@example.org")), sample(measured(7))]
}

/// Checks that file, of a program that has the tasks of a module.
fn check_in(folder: &tempfile::TempDir, module: &'static str, samples: &[Sample]) {
    update_in(folder, module, samples, Update::No);
}

fn update_in(folder: &tempfile::TempDir, module: &'static str, samples: &[Sample], update: Update) {
    let folder = folder.path().to_str().expect("a path").to_owned().leak();
    check_and_update(Program { folder, release: "0.2.0", module }, "payloads.json", samples, update);
}

/// T13: the file of these tests themselves.
#[test]
fn t13_the_rows_of_earlier_releases_can_be_read() {
    payloads!(
        "tests/kit/payloads.json",
        [
            stored(1, "text"),
            keyed(1, 2),
            send_report(1, "ada@example.org"),
            measured(7),
            crate::perform::measured_by(1.5),
            crate::nonblocking::stored_async(1),
            crate::pools::pooled(1),
        ]
    );
}

fn in_folder(golden: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("payloads.json"), golden).expect("write");
    folder
}

fn says(name: &str, folder: &tempfile::TempDir, message: &str) {
    assert_says(name, &message.replace(folder.path().to_str().expect("a path"), "FOLDER"));
}

/// T13
#[test]
fn t13_what_cannot_be_read_any_more_names_the_release() {
    let folder = in_folder(
        r#"{
            "reports::mail": [{"release": "0.1.0", "payload": {"id": 1, "to": "ada@example.org"}}],
            "reports::send": [{"release": "0.1.1", "payload": {"id": 1}},
                              {"release": "0.1.2", "payload": {"id": "1", "to": "x"}},
                              {"release": "0.1.3", "payload": {"id": 1, "to": "ada@example.org"}}]
        }"#,
    );
    let message = message_of(|| check_in(&folder, "elsewhere", &[sample(send_report(1, "ada@example.org"))]));
    says("payloads_unreadable", &folder, &message);
}

/// T13
#[test]
fn t13_a_new_payload_and_a_task_without_a_sample_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = message_of(|| check_in(&folder, "kit::payloads", &samples()[..3]));
    let mut lines: Vec<_> = message.lines().collect();
    // In link order.
    lines[1..].sort_unstable();
    says("payloads_new", &folder, &lines.join("\n"));
    assert!(!folder.path().join("payloads.json").exists(), "nothing is written unasked");
}

/// T13: rows may have been written, also where the version is still the same.
#[test]
fn t13_what_is_new_is_added_and_only_what_is_asked_for_is_replaced() {
    let folder = in_folder(r#"{"reports::send": [{"release": "0.2.0", "payload": {"id": 1, "address": "ada"}}]}"#);
    let file = || fs::read_to_string(folder.path().join("payloads.json")).expect("the file");
    let samples = [sample(send_report(1, "ada")), sample(large(1, ""))];
    let message = message_of(|| update_in(&folder, "elsewhere", &samples, Update::Add));
    says("payloads_renamed", &folder, &message);
    assert!(file().contains("address") && file().contains("large"), "{}", file());
    update_in(&folder, "elsewhere", &samples, Update::Replace);
    assert!(!file().contains("address") && file().contains(r#""to":"ada""#), "{}", file());
    check_in(&folder, "elsewhere", &samples);
}

#[deferred_task(durable, name = "large")]
fn large(number: u128, text: &str) {
    let _ = (number, text);
}

/// T13: numbers stay what they are, and blanks of an editor are none of the values.
#[test]
fn t13_a_payload_is_kept_as_it_was_written() {
    let folder = in_folder(
        r#"{"large": [{"release": "0.1.0", "payload": { "number" : 340282366920938463463374607431768211455, "text":"a \" b" }}]}"#,
    );
    check_in(&folder, "elsewhere", &[sample(large(u128::MAX, "a \" b"))]);
}

/// T13
#[test]
fn t13_rows_of_a_task_that_is_gone_are_named() {
    let folder = in_folder(r#"{"shop::gone": [{"release": "0.1.0", "payload": {}}]}"#);
    let message = message_of(|| check_in(&folder, "elsewhere", &[]));
    says("payloads_gone", &folder, &message);
}

/// T13
#[test]
fn t13_a_golden_file_that_is_broken_is_told() {
    let folder = in_folder("{\"reports::send\": 7");
    let message = message_of(|| check_in(&folder, "elsewhere", &[sample(send_report(1, ""))]));
    says("payloads_broken", &folder, &message);
}
