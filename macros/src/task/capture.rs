//! One argument in the expansion: its field in the captured call, and the lookup of a state. Both
//! stand at the user's own type, which is then what a message of the compiler underlines.
//!
//! Must not know: which parts the expansion has.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::parse::{Arg, Capture, TaskDef};
use crate::paths::{Private, located_at};

/// An argument's field. Where its type cannot be captured each use of the field is a mistake, and
/// all of them are on the type: the compiler shows one of several messages that are the same.
pub(super) fn field(arg: &Arg) -> Ident {
    let mut field = arg.name.clone();
    field.set_span(arg.name.span().located_at(captured_span(arg)));
    field
}

pub(super) fn captured_span(arg: &Arg) -> Span {
    match arg.capture() {
        Capture::Owned(ty) | Capture::Copied(ty) => ty.span(),
    }
}

/// A name of ours that is used at one of the user's types: as visible as the function itself,
/// wherever its type comes from.
pub(super) fn local(name: &str, at: Span, task: &TaskDef) -> Ident {
    Ident::new(name, task.function.sig.fn_token.span.located_at(at))
}

/// What a field keeps: the argument itself, or the copy of what it refers to.
pub(super) fn captured_type(arg: &Arg) -> TokenStream {
    match arg.capture() {
        Capture::Owned(ty) => quote!(#ty),
        Capture::Copied(ty) => quote_spanned!(ty.span()=> <#ty as ::std::borrow::ToOwned>::Owned),
    }
}

/// `Required::cloned::<T>()` or `States::shared::<T>(states)`, at the user's type.
pub(super) fn state_call(on: &str, state: &Arg, argument: &TokenStream, private: &Private) -> TokenStream {
    let (how, ty) = match state.capture() {
        Capture::Owned(ty) => ("cloned", ty),
        Capture::Copied(ty) => ("shared", ty),
    };
    let at = ty.span();
    let (on, how, private) = (Ident::new(on, at), Ident::new(how, at), located_at(private, at));
    quote_spanned!(at=> #private::#on::#how::<#ty>(#argument))
}
