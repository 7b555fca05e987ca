//! `#[deferred_task]`: attribute and function, checked, then expanded; with mistakes in it, a stub
//! that compiles.
//!
//! Must not know: `atomic!`.

mod attributes;
mod capture;
mod check;
mod durable;
mod expand;
mod expected;
mod fallback;
mod hand_over;
mod key;
mod options;
mod parse;
mod values;

use proc_macro2::TokenStream;
use quote::quote;

use self::options::Options;
use self::parse::TaskDef;
use crate::paths::Errors;

pub(crate) fn deferred_task(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let options = Options::parse(options, &mut errors);
    let function = match parse::function(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            errors.push(error);
            let errors = errors.into_tokens();
            return quote!(#item #errors);
        }
    };
    let option_errors = errors.into_tokens();
    let mut errors = Errors::default();
    let task = TaskDef::new(options, function, &mut errors);
    check::check(&task, &mut errors);
    let expansion = if errors.is_empty() { expand::expand(&task).into_tokens(&task) } else { fallback::expand(&task) };
    let errors = errors.into_tokens();
    quote!(#expansion #option_errors #errors)
}
