//! From tokens to [`TaskDef`]: the options, the function, and how each argument is captured.
//!
//! Must not know: what a task may look like beyond that (`check`), or what it becomes (`expand`).

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, Ident, Item, ItemFn, Lifetime, LitStr, Pat, PatIdent, Path, Token, Type};

use crate::paths::Errors;

/// The options in the attribute.
#[derive(Default)]
pub(super) struct Options {
    pub(super) name: Option<LitStr>,
    pub(super) root: Option<Path>,
}

/// A function that is to become a task.
pub(super) struct TaskDef {
    pub(super) options: Options,
    pub(super) function: ItemFn,
    pub(super) args: Vec<Arg>,
}

/// One argument.
pub(super) struct Arg {
    pub(super) attrs: Vec<Attribute>,
    pub(super) name: Ident,
    pub(super) ty: Type,
}

/// How an argument gets into the captured call.
pub(super) enum Capture<'a> {
    /// It moves in.
    Owned(&'a Type),
    /// A reference to this type: what it refers to is copied, and the body is given a reference to the copy.
    Copied(&'a Type),
}

impl Arg {
    pub(super) fn capture(&self) -> Capture<'_> {
        match unwrap_groups(&self.ty) {
            Type::Reference(reference) if !reference.lifetime.as_ref().is_some_and(is_static) => {
                Capture::Copied(&reference.elem)
            }
            _ => Capture::Owned(&self.ty),
        }
    }
}

/// A type that came through a `macro_rules!` matcher stands in an invisible group.
pub(super) fn unwrap_groups(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => unwrap_groups(&group.elem),
        Type::Paren(paren) => unwrap_groups(&paren.elem),
        _ => ty,
    }
}

pub(super) fn is_static(lifetime: &Lifetime) -> bool {
    lifetime.ident == "static"
}

impl Options {
    /// Reads all options; what is wrong with one does not hide the others.
    pub(super) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let parsed = syn::punctuated::Punctuated::<Opt, Token![,]>::parse_terminated.parse2(tokens);
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                errors.push(error);
                return options;
            }
        };
        for Opt { key, value } in parsed {
            let result = match key.to_string().as_str() {
                "name" => set(&mut options.name, &key, value, "the task's name"),
                "crate" => set(&mut options.root, &key, value, "my_crate::diesel_deferred"),
                unknown => Err(syn::Error::new(
                    key.span(),
                    format!("unknown option `{unknown}`; expected `name = \"…\"` or `crate = \"…\"`"),
                )),
            };
            if let Err(error) = result {
                errors.push(error);
            }
        }
        options
    }
}

/// `key` or `key = value`.
struct Opt {
    key: Ident,
    value: Option<syn::Lit>,
}

impl Parse for Opt {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        // `crate` is a keyword, and no `Ident` for syn otherwise.
        let key = input.call(<Ident as syn::ext::IdentExt>::parse_any)?;
        let value = if input.parse::<Option<Token![=]>>()?.is_some() { Some(input.parse()?) } else { None };
        Ok(Self { key, value })
    }
}

/// Sets an option whose value is a string literal that parses as `T`.
fn set<T: FromLiteral>(slot: &mut Option<T>, key: &Ident, value: Option<syn::Lit>, example: &str) -> syn::Result<()> {
    if slot.is_some() {
        return Err(syn::Error::new(key.span(), format!("`{key}` specified more than once")));
    }
    match value {
        Some(syn::Lit::Str(literal)) => {
            *slot = Some(T::from_literal(literal)?);
            Ok(())
        }
        other => {
            let span = other.map_or_else(|| key.span(), |literal| literal.span());
            Err(syn::Error::new(span, format!("`{key}` takes a string: write `{key} = \"{example}\"`")))
        }
    }
}

trait FromLiteral: Sized {
    fn from_literal(literal: LitStr) -> syn::Result<Self>;
}

impl FromLiteral for LitStr {
    fn from_literal(literal: LitStr) -> syn::Result<Self> {
        if literal.value().is_empty() {
            return Err(syn::Error::new(literal.span(), "a task's name cannot be empty; leave the option out"));
        }
        Ok(literal)
    }
}

impl FromLiteral for Path {
    fn from_literal(literal: LitStr) -> syn::Result<Self> {
        literal.parse_with(Path::parse_mod_style)
    }
}

/// The function under the attribute.
pub(super) fn function(item: TokenStream) -> syn::Result<ItemFn> {
    syn::parse2::<ItemFn>(item.clone()).map_err(|not_a_function| match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Impl(item)) => syn::Error::new(
            item.impl_token.span,
            "`#[deferred_task]` must be on a free function; move the function out of the impl block",
        ),
        Ok(Item::Verbatim(_)) | Err(_) => match syn::parse2::<syn::TraitItemFn>(item) {
            Ok(declaration) => syn::Error::new(
                declaration.sig.span(),
                "`#[deferred_task]` needs a function with a body; a trait's method cannot be a task",
            ),
            Err(_) => not_a_function,
        },
        Ok(other) => syn::Error::new(
            keyword_span(&other),
            "`#[deferred_task]` must be on a function: `#[deferred_task] fn send_mail(user_id: i32) { … }`",
        ),
    })
}

/// The first token that is neither an attribute nor a visibility: `struct`, `enum`, …
fn keyword_span(item: &Item) -> proc_macro2::Span {
    match item {
        Item::Struct(item) => item.struct_token.span,
        Item::Enum(item) => item.enum_token.span,
        Item::Mod(item) => item.mod_token.span,
        Item::Trait(item) => item.trait_token.span,
        Item::Const(item) => item.const_token.span,
        Item::Static(item) => item.static_token.span,
        Item::Type(item) => item.type_token.span,
        Item::Use(item) => item.use_token.span,
        other => other.span(),
    }
}

impl TaskDef {
    /// Takes the arguments apart; one that has no name is left out, with an error.
    pub(super) fn new(options: Options, function: ItemFn, errors: &mut Errors) -> Self {
        let mut args = Vec::with_capacity(function.sig.inputs.len());
        for input in &function.sig.inputs {
            match arg(input) {
                Ok(arg) => args.push(arg),
                Err(error) => errors.push(error),
            }
        }
        Self { options, function, args }
    }
}

fn arg(input: &FnArg) -> syn::Result<Arg> {
    match input {
        FnArg::Receiver(receiver) => Err(syn::Error::new(
            receiver.self_token.span,
            "`#[deferred_task]` must be on a free function; move it out of the impl block and pass what it needs of \
             `self` as arguments",
        )),
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(PatIdent { by_ref: None, subpat: None, ident, .. }) => {
                Ok(Arg { attrs: typed.attrs.clone(), name: ident.clone(), ty: (*typed.ty).clone() })
            }
            Pat::Wild(wild) => Err(syn::Error::new(
                wild.span(),
                "the captured call has a field for each argument; write a name, such as `_unused`",
            )),
            pattern => Err(syn::Error::new_spanned(
                pattern.to_token_stream(),
                "the captured call has a field for each argument; write a name and take it apart in the body: \
                 `let … = argument;`",
            )),
        },
    }
}
