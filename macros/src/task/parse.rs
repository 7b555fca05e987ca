//! From tokens to [`TaskDef`]: the function, and how each argument is captured.
//!
//! Must not know: what a task may look like beyond that (`check`), or what it becomes (`expand`).

use proc_macro2::{Delimiter, Span, TokenStream};
use quote::ToTokens;
use syn::parse::discouraged::Speculative;
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{
    Attribute, Block, Expr, FnArg, Ident, Item, ItemFn, Lifetime, Pat, PatIdent, Receiver, Signature, Stmt, Token,
    Type, braced,
};

use super::options::Options;
use crate::paths::Errors;

/// A function that is to become a task.
pub(super) struct TaskDef {
    pub(super) options: Options,
    pub(super) function: ItemFn,
    /// In the order of the function's parameters.
    args: Vec<Arg>,
}

/// What runs the body when the transaction has committed.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// The thread that committed.
    Here,
    /// A runtime, which is given the future of this `async fn`.
    Spawned(Token![async]),
    /// A thread on which one may block.
    Blocking,
}

/// One argument.
pub(super) struct Arg {
    pub(super) attrs: Vec<Attribute>,
    /// No argument of the call: who runs the task has it.
    pub(super) is_state: bool,
    /// Its value is never shown.
    pub(super) is_secret: bool,
    pub(super) name: Ident,
    pub(super) ty: Type,
}

/// How an argument gets into the captured call, or a state to the body.
pub(super) enum Capture<'a> {
    /// It moves in; a state is cloned.
    Owned(&'a Type),
    /// A reference to this type: what it refers to is copied, and the body is given a reference to
    /// the copy. A state is not copied but shared.
    Copied(&'a Type),
}

impl Arg {
    /// Those that say how it is stored.
    pub(super) fn serde_attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.attrs.iter().filter(|attribute| is_for_serde(attribute))
    }

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

/// The function under the attribute.
pub(super) fn function(item: TokenStream) -> syn::Result<ItemFn> {
    let function = |input: ParseStream<'_>| item_fn(input);
    function.parse2(item.clone()).map_err(|not_a_function| match syn::parse2::<Item>(item.clone()) {
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

/// A function whose body is not taken apart: nothing is asked of it, what is wrong in it the
/// compiler says itself, and syn would take long with it.
fn item_fn(input: ParseStream<'_>) -> syn::Result<ItemFn> {
    let ahead = input.fork();
    let (attrs, vis, sig): (_, _, Signature) = (ahead.call(Attribute::parse_outer)?, ahead.parse()?, ahead.parse()?);
    let Some((inside, _, _, rest)) = ahead.cursor().any_group().filter(|(_, brace, ..)| *brace == Delimiter::Brace)
    else {
        return input.parse();
    };
    // Attributes of the function may stand in its body.
    let has_attributes = inside.punct().is_some_and(|(punct, _)| punct.as_char() == '#');
    if has_attributes || !rest.eof() {
        return input.parse();
    }
    let content;
    let brace_token = braced!(content in ahead);
    let body = Stmt::Expr(Expr::Verbatim(content.parse()?), None);
    input.advance_to(&ahead);
    Ok(ItemFn { attrs, vis, sig, block: Box::new(Block { brace_token, stmts: vec![body] }) })
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

    /// What the body is given, in its order.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &Arg> {
        self.args.iter()
    }

    /// What the call captures.
    pub(super) fn args(&self) -> impl Iterator<Item = &Arg> {
        self.args.iter().filter(|arg| !arg.is_state)
    }

    /// What the body is given by who runs it.
    pub(super) fn states(&self) -> impl Iterator<Item = &Arg> {
        self.args.iter().filter(|arg| arg.is_state)
    }

    /// Also of one that has only the options of one: its `durable` was forgotten.
    pub(super) fn is_durable(&self) -> bool {
        self.options.durable.is_some() || !self.options.of_durable.keys.is_empty()
    }

    pub(super) fn start(&self) -> Start {
        match (self.function.sig.asyncness, &self.options.blocking) {
            (Some(token), _) => Start::Spawned(token),
            (None, Some(_)) => Start::Blocking,
            (None, None) => Start::Here,
        }
    }
}

/// `Self` in a signature: the function is in an impl block or a trait.
pub(super) fn self_type(signature: &Signature) -> Option<Span> {
    struct Finder(Option<Span>);
    impl Visit<'_> for Finder {
        // It has a message of its own.
        fn visit_receiver(&mut self, _: &Receiver) {}

        fn visit_ident(&mut self, ident: &Ident) {
            if ident == "Self" {
                self.0.get_or_insert(ident.span());
            }
        }
    }
    let mut finder = Finder(None);
    finder.visit_signature(signature);
    finder.0
}

fn attributes(input: &FnArg) -> &[Attribute] {
    match input {
        FnArg::Receiver(receiver) => &receiver.attrs,
        FnArg::Typed(typed) => &typed.attrs,
    }
}

pub(super) fn says_state(attribute: &Attribute) -> bool {
    attribute.path().is_ident("state")
}

pub(super) fn is_state(input: &FnArg) -> bool {
    attributes(input).iter().any(says_state)
}

pub(super) fn says_secret(attribute: &Attribute) -> bool {
    attribute.path().is_ident("secret")
}

/// For how the argument is stored.
pub(super) fn is_for_serde(attribute: &Attribute) -> bool {
    attribute.path().is_ident("serde")
}

/// `#[state]`, `#[secret]` and `#[serde(…)]` are for us, and nothing that the compiler knows there.
pub(super) fn without_our_attributes(signature: &Signature) -> Signature {
    let is_theirs =
        |attribute: &Attribute| !says_state(attribute) && !says_secret(attribute) && !is_for_serde(attribute);
    let mut signature = signature.clone();
    for input in &mut signature.inputs {
        match input {
            FnArg::Receiver(receiver) => receiver.attrs.retain(is_theirs),
            FnArg::Typed(typed) => typed.attrs.retain(is_theirs),
        }
    }
    signature
}

fn arg(input: &FnArg) -> syn::Result<Arg> {
    match input {
        FnArg::Typed(typed)
            if is_state(input) && !matches!(&*typed.pat, Pat::Ident(PatIdent { by_ref: None, subpat: None, .. })) =>
        {
            Err(syn::Error::new_spanned(
                &typed.pat,
                "`.run(…)` has a parameter for each state; write a name and take it apart in the body: `let … = state;`",
            ))
        }
        FnArg::Receiver(receiver) => Err(syn::Error::new(
            receiver.self_token.span,
            "`#[deferred_task]` must be on a free function; move it out of the impl block and pass what it needs of \
             `self` as arguments",
        )),
        FnArg::Typed(typed) => match &*typed.pat {
            Pat::Ident(PatIdent { by_ref: None, subpat: None, ident, .. }) => {
                let (name, ty) = (ident.clone(), (*typed.ty).clone());
                let is_secret = typed.attrs.iter().any(says_secret);
                Ok(Arg { attrs: typed.attrs.clone(), is_state: is_state(input), is_secret, name, ty })
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
