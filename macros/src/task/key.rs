//! What the key of a durable task names.
//!
//! Must not know: what a key is for.

use syn::LitStr;
use syn::ext::IdentExt;

use super::parse::{Arg, TaskDef};
use crate::paths::Errors;

/// Each name in the key is an argument that may be shown, or a constant.
pub(super) fn check(key: &LitStr, task: &TaskDef, errors: &mut Errors) {
    for name in names(&key.value()) {
        let is_it = |arg: &&Arg| arg.name.unraw() == name;
        let message = if task.states().any(|state| is_it(&state)) {
            format!(
                "a key can name arguments of the call, and not the state `{name}`, which only a worker has; remove it \
                 from the key"
            )
        } else if task.args().any(|arg| is_it(&arg) && arg.is_secret) {
            format!(
                "a key is shown wherever its call is, and `{name}` is `#[secret]`; remove it from the key, and name \
                 another argument that tells the calls apart"
            )
        } else if task.args().any(|arg| is_it(&arg)) || name.chars().any(char::is_uppercase) {
            continue;
        } else {
            let args: Vec<_> =
                task.args().filter(|arg| !arg.is_secret).map(|arg| format!("`{}`", arg.name.unraw())).collect();
            let instead = match args.as_slice() {
                [] => "the task has none, so write a key without names".to_owned(),
                [arg] => format!("write {arg}, or a constant"),
                [args @ .., last] => format!("write {} or {last}, or a constant", args.join(", ")),
            };
            format!("the key names `{name}`, which is no argument of the task; {instead}")
        };
        errors.push(syn::Error::new(key.span(), message));
    }
}

/// The names in a format string, each once: of `{name}`, of `{name:…}`, and of the numbers in
/// `{…:width$.precision$}`.
fn names(format: &str) -> Vec<String> {
    // `{{` is a brace, and not the beginning of a name.
    let format = format.replace("{{", "");
    let mut names = Vec::new();
    for field in format.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        let (named, how) = field.split_once(':').unwrap_or((field, ""));
        // What is behind the last `$` says how to write it.
        let numbers = how.rsplit('$').skip(1).filter_map(|part| {
            let word = part.rsplit(|c| !is_of_a_word(c)).next()?;
            // `{id:0width$}`: with zeros in front of it.
            Some(word.trim_start_matches('0'))
        });
        for name in std::iter::once(named.trim()).chain(numbers) {
            let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
            if is_name && name.chars().all(is_of_a_word) && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
