//! What the macros expand to, as files to read: `tests/expansions/NAME.rs` becomes
//! `NAME.expanded.rs`.
//!
//! `UPDATE_EXPANSIONS=1 cargo test -p diesel-deferred-macros` writes the latter anew.

use std::fs;
use std::path::Path;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Expr, File, Item, Meta};

#[test]
fn plain_task() {
    check("plain_task");
}

#[test]
fn borrowed_and_generic_task() {
    check("borrowed_and_generic_task");
}

#[test]
fn async_task() {
    check("async_task");
}

#[test]
fn blocking_task() {
    check("blocking_task");
}

#[test]
fn tasks_with_states() {
    check("tasks_with_states");
}

#[test]
fn generic_async_task() {
    check("generic_async_task");
}

#[test]
fn durable_task() {
    check("durable_task");
}

#[test]
fn durable_fn() {
    check("durable_fn");
}

#[test]
fn task_with_a_mistake() {
    check("task_with_a_mistake");
}

#[test]
fn async_task_with_a_mistake() {
    check("async_task_with_a_mistake");
}

#[test]
fn atomic_statements() {
    check("atomic_statements");
}

#[test]
fn atomic_options() {
    check("atomic_options");
}

#[test]
fn atomic_async() {
    check("atomic_async");
}

#[test]
fn atomic_async_options() {
    check("atomic_async_options");
}

fn check(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expansions");
    let input = fs::read_to_string(folder.join(name).with_extension("rs")).expect("read the input");
    let mut file: File = syn::parse_str(&input).expect("the input is Rust");
    Expander.visit_file_mut(&mut file);
    let actual = prettyplease::unparse(&file);
    let snapshot = folder.join(name).with_extension("expanded.rs");
    if std::env::var_os("UPDATE_EXPANSIONS").is_some() {
        fs::write(&snapshot, &actual).expect("write the expansion");
    }
    let expected = fs::read_to_string(&snapshot).unwrap_or_default();
    assert!(actual == expected, "{} is not what `{name}.rs` expands to any more:\n{actual}", snapshot.display());
}

/// Does what the compiler does with our macros.
struct Expander;

impl VisitMut for Expander {
    fn visit_file_mut(&mut self, file: &mut File) {
        file.items = std::mem::take(&mut file.items).into_iter().flat_map(expand_item).collect();
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Macro(atomic) if atomic.mac.path.is_ident("atomic") => {
                *expr = syn::parse2(crate::atomic::atomic(atomic.mac.tokens.clone())).expect("an expression");
            }
            _ => visit_mut::visit_expr_mut(self, expr),
        }
    }
}

fn expand_item(mut item: Item) -> Vec<Item> {
    if let Item::Fn(function) = &mut item
        && let Some(options) = take(&mut function.attrs, "deferred_task")
    {
        let expansion: File =
            syn::parse2(crate::task::deferred_task(options, item.into_token_stream())).expect("items");
        return expansion.items.into_iter().flat_map(expand_item).collect();
    }
    if let Item::Struct(call) = &mut item
        && let Some(items) = take(&mut call.attrs, "with_items")
    {
        let items: File = syn::parse2(items).expect("items");
        return [item].into_iter().chain(items.items).collect();
    }
    vec![item]
}

/// Takes an attribute off, if it is there.
fn take(attributes: &mut Vec<Attribute>, name: &str) -> Option<TokenStream> {
    let is_it = |attribute: &Attribute| attribute.path().segments.last().is_some_and(|segment| segment.ident == name);
    let attribute = attributes.remove(attributes.iter().position(is_it)?);
    match attribute.meta {
        Meta::List(list) => Some(list.tokens),
        _ => Some(TokenStream::new()),
    }
}
