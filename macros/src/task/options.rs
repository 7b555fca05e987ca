//! The options in the attribute: from tokens to [`Options`].
//!
//! Must not know: which of them go together (`check`), or what they do (`expand`, `durable`).

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Ident, Lit, LitStr, Path, Token};

use super::values::{Attempts, Time, Unique, Value};
use crate::paths::Errors;

/// All of them, as far as they make sense.
#[derive(Default)]
pub(super) struct Options {
    pub(super) name: Option<LitStr>,
    pub(super) root: Option<Path>,
    /// The word itself.
    pub(super) blocking: Option<Ident>,
    /// The word itself.
    pub(super) durable: Option<Ident>,
    pub(super) of_durable: OfDurable,
}

/// Those that only a durable task has.
#[derive(Default)]
pub(super) struct OfDurable {
    /// The words themselves.
    pub(super) keys: Vec<Ident>,
    pub(super) queue: Option<LitStr>,
    pub(super) priority: Option<i16>,
    pub(super) max_attempts: Option<Attempts>,
    pub(super) timeout: Option<Time>,
    pub(super) backoff: Option<Time>,
    pub(super) unique: Option<Unique>,
    /// A format string.
    pub(super) key: Option<LitStr>,
    /// What the task was called.
    pub(super) was: Vec<LitStr>,
}

const EXPECTED: &str = "expected `name = \"…\"`, `crate = \"…\"`, `blocking` or `durable`, or beside `durable` one of `queue`, \
                        `max_attempts`, `priority`, `timeout`, `backoff`, `unique`, `key` and `was`";

impl Options {
    /// Reads all options; what is wrong with one does not hide the others.
    pub(super) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let parse = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = options.option(input) {
                    errors.push(error);
                    skip_to_comma(input)?;
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = parse.parse2(tokens) {
            errors.push(error);
        }
        options
    }

    /// `key = value`, or a bare word.
    fn option(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        // `crate` is a keyword, and no `Ident` for syn otherwise.
        if !input.peek(Ident::peek_any) {
            return Err(syn::Error::new(input.span(), EXPECTED));
        }
        let key = input.call(Ident::parse_any)?;
        match key.to_string().as_str() {
            "name" => set(&mut self.name, &key, input, "\"the task's name\""),
            "crate" => set(&mut self.root, &key, input, "\"my_crate::diesel_deferred\""),
            "blocking" => word(&mut self.blocking, key, input),
            "durable" => word(&mut self.durable, key, input),
            _ => self.of_durable.option(key, input),
        }
    }
}

impl OfDurable {
    fn option(&mut self, key: Ident, input: ParseStream<'_>) -> syn::Result<()> {
        // Also where the value is wrong: that is another mistake than to have no use for it.
        self.keys.push(key.clone());
        match key.to_string().as_str() {
            "queue" => set(&mut self.queue, &key, input, "\"mail\""),
            "priority" => set(&mut self.priority, &key, input, "-1"),
            "max_attempts" => set(&mut self.max_attempts, &key, input, "5"),
            "timeout" => set(&mut self.timeout, &key, input, "\"30s\""),
            "backoff" => set(&mut self.backoff, &key, input, "\"10s\""),
            "unique" if input.peek(Token![=]) => set(&mut self.unique, &key, input, "\"replace\""),
            "unique" => {
                put(&mut self.unique, &key, Unique::Keep)?;
                expect_end(input)
            }
            "key" => set(&mut self.key, &key, input, "\"order-{order_id}\""),
            // It may have had several names, one after the other.
            "was" => {
                let mut was = None;
                set(&mut was, &key, input, "\"my_crate::old_module::old_name\"")?;
                self.was.extend(was);
                Ok(())
            }
            unknown => {
                self.keys.pop();
                Err(syn::Error::new(key.span(), format!("unknown option `{unknown}`; {EXPECTED}")))
            }
        }
    }
}

fn skip_to_comma(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        let _: TokenTree = input.parse()?;
    }
    Ok(())
}

/// An option without a value.
fn word(slot: &mut Option<Ident>, key: Ident, input: ParseStream<'_>) -> syn::Result<()> {
    put(slot, &key, key.clone())?;
    if input.peek(Token![=]) || input.peek(syn::token::Paren) {
        let message = format!("`{key}` takes no value; write `{key}`, or leave it out");
        return Err(syn::Error::new(input.span(), message));
    }
    expect_end(input)
}

/// An option with one.
fn set<V: Value>(slot: &mut Option<V>, key: &Ident, input: ParseStream<'_>, example: &str) -> syn::Result<()> {
    let wrong = |span| syn::Error::new(span, format!("`{key}` takes {}; write `{key} = {example}`", V::TAKES));
    if !input.peek(Token![=]) {
        return Err(wrong(key.span()));
    }
    input.parse::<Token![=]>()?;
    if !input.peek(Lit) {
        return Err(wrong(input.span()));
    }
    let literal: Lit = input.parse()?;
    let value = V::read(key, &literal).unwrap_or_else(|| Err(wrong(literal.span())))?;
    put(slot, key, value)?;
    expect_end(input)
}

fn put<T>(slot: &mut Option<T>, key: &Ident, value: T) -> syn::Result<()> {
    if slot.is_some() {
        return Err(syn::Error::new(key.span(), format!("`{key}` specified more than once")));
    }
    *slot = Some(value);
    Ok(())
}

/// The end of an option.
fn expect_end(input: ParseStream<'_>) -> syn::Result<()> {
    let ended = input.is_empty() || input.peek(Token![,]);
    if ended { Ok(()) } else { Err(syn::Error::new(input.span(), "expected `,`")) }
}
