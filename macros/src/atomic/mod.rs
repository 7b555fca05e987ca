//! `atomic!`: input, checked; rewritten body, expansion.
//!
//! Must not know: `#[deferred_task]`; that a statement is a task is found out by type, in the
//! runtime.

mod check;
mod expand;
mod macros;
mod options;
mod parse;
mod reborrow;
mod rewrite;
mod simple;
#[cfg(test)]
mod tests;

use proc_macro2::TokenStream;
use quote::quote;

use crate::paths::Errors;

pub(crate) fn atomic(input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let parsed = parse::AtomicDef::parse(input, &mut errors);
    if let Ok(atomic) = &parsed {
        check::check(atomic, &mut errors);
    }
    match parsed {
        Ok(atomic) if errors.is_empty() => expand::expand(atomic),
        Ok(_) => stub(errors),
        Err(error) => {
            errors.push(error);
            stub(errors)
        }
    }
}

/// `compile_error!` has no type, so that nothing around it is wrong too.
fn stub(errors: Errors) -> TokenStream {
    let errors = errors.into_tokens();
    quote!({ #errors })
}
