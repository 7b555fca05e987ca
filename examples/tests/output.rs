//! Each example prints what its `.expected` file says, wherever and however often it is run.

use std::env::temp_dir;
use std::process::Command;

#[test]
fn quickstart() {
    // Twice: the second run must not trip over what the first one left.
    for _ in 0..2 {
        assert_prints(env!("CARGO_BIN_EXE_quickstart"), include_str!("../quickstart.expected"));
    }
}

#[test]
fn loop_bug() {
    assert_prints(env!("CARGO_BIN_EXE_loop_bug"), include_str!("../loop_bug.expected"));
}

/// Runs the program in a directory that is not the repository.
fn assert_prints(program: &str, expected: &str) {
    let output = Command::new(program).current_dir(temp_dir()).output().expect("the example starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {}\n{errors}", output.status);
    let printed = String::from_utf8(output.stdout).expect("the example prints UTF-8");
    assert!(printed == expected, "{program} does not print what is expected:\n{}", difference(expected, &printed));
}

/// What the two begin and end with is shown once; between, `-` marks lines that are missing and `+`
/// unexpected ones.
fn difference(expected: &str, printed: &str) -> String {
    let (expected, printed): (Vec<_>, Vec<_>) = (expected.lines().collect(), printed.lines().collect());
    let shorter = expected.len().min(printed.len());
    let head = expected.iter().zip(&printed).take_while(|(a, b)| a == b).count();
    let tail = expected.iter().rev().zip(printed.iter().rev()).take_while(|(a, b)| a == b).count().min(shorter - head);

    let marked = |mark, lines: &[&str]| lines.iter().map(|line| format!("{mark} {line}\n")).collect::<String>();
    [
        marked(' ', &expected[..head]),
        marked('-', &expected[head..expected.len() - tail]),
        marked('+', &printed[head..printed.len() - tail]),
        marked(' ', &expected[expected.len() - tail..]),
    ]
    .concat()
}
