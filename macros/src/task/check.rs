//! What a task function must not look like, each rule with what to write instead. Finds all
//! mistakes, not the first.
//!
//! Must not know: what a task becomes.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, GenericParam, Ident, Lifetime, Meta, ParenthesizedGenericArguments, ReturnType, Signature, Type,
    TypeBareFn, TypeImplTrait, TypeReference,
};

use super::durable;
use super::key;
use super::options::Options;
use super::parse::{Arg, TaskDef, is_static, says_secret, says_state, self_type, unwrap_groups};
use crate::paths::{Errors, rendered};

pub(super) fn check(task: &TaskDef, errors: &mut Errors) {
    signature(&task.function.sig, errors);
    options(task, errors);
    if task.is_durable() {
        generics(&task.function.sig, errors);
    }
    printed_secrets(task, errors);
    for arg in task.parameters() {
        attributes(arg, errors);
        serde_attributes(arg, task, errors);
        if arg.is_state {
            state(arg, errors);
        } else {
            argument(arg, task, errors);
        }
    }
}

/// `#[tracing::instrument]`, which makes a field of each argument that it is not told to skip.
fn printed_secrets(task: &TaskDef, errors: &mut Errors) {
    let is_instrument =
        |attribute: &&Attribute| attribute.path().segments.last().is_some_and(|last| last.ident == "instrument");
    for attribute in task.function.attrs.iter().filter(is_instrument) {
        let skipped = match &attribute.meta {
            Meta::List(list) => list.tokens.to_string(),
            Meta::Path(_) | Meta::NameValue(_) => String::new(),
        };
        let is_skipped =
            |name: &str| skipped.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name);
        let printed = |arg: &&Arg| arg.is_secret && !is_skipped(&arg.name.unraw().to_string());
        if let Some(arg) = task.args().find(printed).filter(|_| !is_skipped("skip_all")) {
            let name = &arg.name;
            errors.push(syn::Error::new_spanned(
                attribute,
                format!("this writes all arguments into a span, and `{name}` is `#[secret]`; write `skip({name})` in it, or `skip_all`"),
            ));
        }
    }
}

fn options(task: &TaskDef, errors: &mut Errors) {
    let Options { blocking, durable, of_durable, .. } = &task.options;
    match (blocking, &task.function.sig.asyncness, durable) {
        (Some(word), Some(_), _) => errors.push(syn::Error::new(
            word.span(),
            "an `async fn` is spawned, and must not block; remove `blocking`, or remove `async` and block as you like",
        )),
        (Some(word), None, Some(_)) => errors.push(syn::Error::new(
            word.span(),
            "a durable `fn` runs on a worker's pool for blocking work anyway; remove `blocking`",
        )),
        _ => {}
    }
    match durable {
        Some(word) if !durable::IS_THERE => errors.push(syn::Error::new(
            word.span(),
            "durable tasks need the feature `durable` of diesel-deferred; turn it on in Cargo.toml: \
             `diesel-deferred = { …, features = [\"durable\"] }`",
        )),
        Some(_) => {
            let timeout = of_durable.keys.iter().find(|key| *key == "timeout");
            if let (Some(key), None) = (timeout, &task.function.sig.asyncness) {
                errors.push(syn::Error::new(
                    key.span(),
                    "a plain `fn` runs on a thread, which nobody can stop; write an `async fn`, or remove `timeout`",
                ));
            }
        }
        None => {
            for key in &of_durable.keys {
                let message =
                    format!("only a durable task has the option `{key}`; write `durable` too, or remove `{key}`");
                errors.push(syn::Error::new(key.span(), message));
            }
        }
    }
    for (at, was) in of_durable.was.iter().enumerate() {
        let old = was.value();
        if task.options.name.as_ref().is_some_and(|name| name.value() == old) {
            let message = format!("the task has the name `{old}` still; remove this `was`, or give it a new `name`");
            errors.push(syn::Error::new(was.span(), message));
        } else if of_durable.was[..at].iter().any(|other| other.value() == old) {
            errors.push(syn::Error::new(was.span(), format!("`was` has the name `{old}` already; remove one")));
        }
    }
    if let Some(literal) = &of_durable.key {
        key::check(literal, task, errors);
    }
}

fn generics(signature: &Signature, errors: &mut Errors) {
    for parameter in &signature.generics.params {
        if !matches!(parameter, GenericParam::Lifetime(_)) {
            errors.push(syn::Error::new_spanned(
                parameter,
                "a durable task cannot be generic: its row names a function, and no types; write a task for each type",
            ));
        }
    }
}

fn signature(signature: &Signature, errors: &mut Errors) {
    if let Some(token) = &signature.unsafety {
        errors.push(syn::Error::new(
            token.span,
            "a task is run by the connection, which cannot promise what an `unsafe fn` asks for; write a plain `fn` with \
             an `unsafe` block in it",
        ));
    }
    if let Some(token) = &signature.constness {
        errors.push(syn::Error::new(token.span, "a task runs after a commit, never at compile time; remove `const`"));
    }
    if let Some(abi) = &signature.abi {
        errors.push(syn::Error::new_spanned(abi, "a task is called from Rust only; remove the ABI"));
    }
    for parameter in &signature.generics.params {
        if let GenericParam::Lifetime(parameter) = parameter {
            errors.push(syn::Error::new_spanned(
                parameter,
                format!(
                    "a captured call outlives every borrow; remove `{}` and write plain references (`&str`), which are \
                     copied at the call",
                    parameter.lifetime
                ),
            ));
        }
    }
    if let ReturnType::Type(_, ty) = &signature.output
        && let Type::Never(never) = unwrap_groups(ty)
    {
        errors.push(syn::Error::new_spanned(
            never,
            "a task that never returns never lets go of the thread or the slot that it runs on; return `()` or \
             `Result<(), E>`, and start what runs for ever where your program starts",
        ));
    }
    if let Some(token) = self_type(signature) {
        errors.push(syn::Error::new(
            token,
            "`#[deferred_task]` must be on a free function; move it out of the impl block, and write the type's name \
             instead of `Self`",
        ));
    }
    if let ReturnType::Type(_, ty) = &signature.output
        && let Type::ImplTrait(ty) = unwrap_groups(ty)
    {
        errors.push(syn::Error::new_spanned(
            ty,
            "a task returns `()` or `Result<(), E>`; write one of them instead of `impl …`",
        ));
    }
}

fn attributes(arg: &Arg, errors: &mut Errors) {
    for attribute in &arg.attrs {
        if ["cfg", "cfg_attr"].iter().any(|name| attribute.path().is_ident(name)) {
            errors.push(syn::Error::new_spanned(
                attribute,
                "an argument of a task cannot be conditional; write two functions with `#[cfg]` on each",
            ));
        }
    }
    for (at, attribute) in arg.attrs.iter().filter(|attribute| says_secret(attribute)).enumerate() {
        let message = if arg.is_state {
            "a state is never shown; remove `#[secret]`".to_owned()
        } else if at > 0 {
            "`#[secret]` is on this argument already; remove one".to_owned()
        } else if !matches!(attribute.meta, Meta::Path(_)) {
            format!("a secret argument is not shown at all; write `#[secret] {}: …`", arg.name)
        } else {
            continue;
        };
        errors.push(syn::Error::new_spanned(attribute, message));
    }
    for (at, attribute) in arg.attrs.iter().filter(|attribute| says_state(attribute)).enumerate() {
        if at > 0 {
            errors.push(syn::Error::new_spanned(attribute, "`#[state]` is on this argument already; remove one"));
        } else if !matches!(attribute.meta, Meta::Path(_)) {
            errors.push(syn::Error::new_spanned(
                &attribute.meta,
                format!("a state is found by the argument's type; write `#[state] {}: …`", arg.name),
            ));
        }
    }
}

fn serde_attributes(arg: &Arg, task: &TaskDef, errors: &mut Errors) {
    let message = match (arg.is_state, task.is_durable()) {
        (true, _) => "a state is not stored; remove this attribute",
        (false, false) => {
            "only a durable task stores its arguments; remove this attribute, or write `#[deferred_task(durable)]`"
        }
        (false, true) => return,
    };
    for attribute in arg.serde_attributes() {
        errors.push(syn::Error::new_spanned(attribute, message));
    }
}

fn argument(arg: &Arg, task: &TaskDef, errors: &mut Errors) {
    let name = &arg.name;
    if let Some(connection) = borrowed_connection(arg) {
        errors.push(syn::Error::new_spanned(
            &arg.ty,
            format!(
                "a task runs after the commit, and cannot keep the `{connection}` that it was called with; take a pool, and \
                 get a connection of the task's own from it: `#[state] pool: &Pool<…>`"
            ),
        ));
        return;
    }
    match unwrap_groups(&arg.ty) {
        Type::Reference(TypeReference { mutability: Some(_), elem, .. }) => errors.push(syn::Error::new_spanned(
            &arg.ty,
            format!(
                "a task runs when the caller's variable is gone, so that it cannot change it; take it by value: \
                 `{name}: {}`",
                owned(elem)
            ),
        )),
        Type::Reference(TypeReference { lifetime: Some(lifetime), elem, .. })
            if task.is_durable() && is_static(lifetime) =>
        {
            errors.push(syn::Error::new_spanned(
                &arg.ty,
                format!(
                    "what a worker reads from a call's row is not there for as long as `'static`; write `{name}: &{}`",
                    rendered(elem)
                ),
            ));
        }
        Type::Reference(TypeReference { elem, .. })
            if task.is_durable() && matches!(unwrap_groups(elem), Type::TraitObject(_)) =>
        {
            errors.push(syn::Error::new_spanned(
                &arg.ty,
                format!("a trait object cannot be stored; write a type that can be: `{name}: …`"),
            ));
        }
        Type::Reference(TypeReference { elem, .. }) if matches!(unwrap_groups(elem), Type::TraitObject(_)) => {
            let object = rendered(elem);
            let send = if object.contains("Send") { "" } else { " + Send" };
            errors.push(syn::Error::new_spanned(
                &arg.ty,
                format!("a trait object cannot be copied out of a reference; take it by value: `{name}: Box<{object}{send}>`"),
            ));
        }
        _ => match Borrows::inside(&arg.ty) {
            Some(Borrowed::ImplTrait(span, _)) if task.is_durable() => errors.push(syn::Error::new(
                span,
                format!("a worker needs to know this type, to read it from the call's row; write its name: `{name}: …`"),
            )),
            Some(Borrowed::ImplTrait(span, bounds)) => errors.push(syn::Error::new(
                span,
                format!(
                    "the captured call needs a name for this type; write a generic parameter: `fn …<T: {bounds}>({name}: T)`"
                ),
            )),
            Some(Borrowed::Borrow(span)) => errors.push(syn::Error::new(
                span,
                format!(
                    "a task captures its arguments by value, and a borrow inside a type cannot be copied; write `{name}: {}`",
                    owned(&arg.ty)
                ),
            )),
            None => {}
        },
    }
}

/// The name of the type, where an argument borrows a connection. By their names; of an own type
/// only what is borrowed mutably, which no task can take anyway.
fn borrowed_connection(arg: &Arg) -> Option<&Ident> {
    let Type::Reference(TypeReference { mutability, elem, .. }) = unwrap_groups(&arg.ty) else { return None };
    let Type::Path(path) = unwrap_groups(elem) else { return None };
    let name = &path.path.segments.last()?.ident;
    let (text, argument) = (name.to_string(), arg.name.to_string());
    let known = CONNECTIONS.contains(&&*text);
    let looks_like_one = ["Conn", "Connection"].iter().any(|end| text.ends_with(end)) || argument == "conn";
    (known || mutability.is_some() && looks_like_one).then_some(name)
}

/// Diesel's, diesel-async's and ours.
const CONNECTIONS: [&str; 8] = [
    "SqliteConnection",
    "PgConnection",
    "MysqlConnection",
    "AsyncPgConnection",
    "AsyncMysqlConnection",
    "SyncConnectionWrapper",
    "DeferredConnection",
    "AsyncDeferredConnection",
];

fn state(arg: &Arg, errors: &mut Errors) {
    let name = &arg.name;
    match unwrap_groups(&arg.ty) {
        Type::Reference(TypeReference { mutability: Some(_), elem, .. }) => errors.push(syn::Error::new_spanned(
            &arg.ty,
            format!(
                "a state is shared by all tasks that run, so that none of them has it for itself; take \
                 `{name}: &{}` with a `Mutex` in it",
                rendered(elem)
            ),
        )),
        Type::Reference(TypeReference { elem, .. }) if matches!(unwrap_groups(elem), Type::TraitObject(_)) => {
            let object = rendered(elem);
            let send = if object.contains("Send") { "" } else { " + Send" };
            let sync = if object.contains("Sync") { "" } else { " + Sync" };
            errors.push(syn::Error::new_spanned(
                &arg.ty,
                format!(
                    "a state is found by its type, and a trait object is not kept as one; take it by value: \
                     `{name}: Arc<{object}{send}{sync}>`"
                ),
            ));
        }
        _ => match Borrows::inside(&arg.ty) {
            Some(Borrowed::ImplTrait(span, _)) => errors.push(syn::Error::new(
                span,
                format!("a state is found by its type; write the type's name: `#[state] {name}: …`"),
            )),
            Some(Borrowed::Borrow(span)) => errors.push(syn::Error::new(
                span,
                format!(
                    "a state outlives every borrow; take one that owns what is in it: `{name}: {}`",
                    owned(&arg.ty)
                ),
            )),
            None => {}
        },
    }
}

/// What cannot be captured inside a type; one of them is enough for a message.
enum Borrowed {
    Borrow(Span),
    /// With its bounds.
    ImplTrait(Span, String),
}

/// Looks for the first borrow and the first `impl Trait`.
#[derive(Default)]
struct Borrows {
    borrow: Option<Span>,
    impl_trait: Option<(Span, String)>,
}

impl Borrows {
    /// Inside of an argument's type: that this may itself be a reference is another matter.
    fn inside(ty: &Type) -> Option<Borrowed> {
        let mut finder = Self::default();
        match unwrap_groups(ty) {
            // A named lifetime of the function's has its message already, at its declaration.
            Type::Reference(reference) if !reference.lifetime.as_ref().is_some_and(is_static) => {
                finder.visit_type(&reference.elem);
            }
            ty => finder.visit_type(ty),
        }
        let impl_trait = finder.impl_trait.map(|(span, bounds)| Borrowed::ImplTrait(span, bounds));
        impl_trait.or(finder.borrow.map(Borrowed::Borrow))
    }
}

impl<'ast> Visit<'ast> for Borrows {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        if !reference.lifetime.as_ref().is_some_and(is_static) {
            self.borrow.get_or_insert(reference.and_token.span);
        }
        visit::visit_type_reference(self, reference);
    }

    fn visit_lifetime(&mut self, lifetime: &'ast Lifetime) {
        if !is_static(lifetime) {
            self.borrow.get_or_insert(lifetime.span());
        }
    }

    fn visit_type_impl_trait(&mut self, ty: &'ast TypeImplTrait) {
        self.impl_trait.get_or_insert_with(|| (ty.impl_token.span, rendered(&ty.bounds)));
    }

    // Their references are the callee's business: `fn(&str)` and `dyn Fn(&str)` borrow nothing.
    fn visit_type_bare_fn(&mut self, _: &'ast TypeBareFn) {}
    fn visit_parenthesized_generic_arguments(&mut self, _: &'ast ParenthesizedGenericArguments) {}
}

/// The type as it is written without borrows: `Option<&str>` is `Option<String>`.
fn owned(ty: &Type) -> String {
    struct ToOwned;
    impl VisitMut for ToOwned {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            if let Type::Reference(reference) = ty
                && !reference.lifetime.as_ref().is_some_and(is_static)
            {
                *ty = owned_referent(&reference.elem);
            }
            if let Some(inner) = inside_cow(ty) {
                *ty = owned_referent(&inner);
            }
            visit_mut::visit_type_mut(self, ty);
        }

        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            *lifetime = Lifetime::new("'static", lifetime.span());
        }
    }
    let mut ty = ty.clone();
    ToOwned.visit_type_mut(&mut ty);
    rendered(&ty)
}

fn owned_referent(referent: &Type) -> Type {
    match referent {
        Type::Slice(slice) => {
            let element = &slice.elem;
            syn::parse_quote!(Vec<#element>)
        }
        Type::Path(path) if path.path.is_ident("str") => syn::parse_quote!(String),
        Type::Path(path) if path.path.is_ident("Path") => syn::parse_quote!(PathBuf),
        Type::Path(path) if path.path.is_ident("OsStr") => syn::parse_quote!(OsString),
        Type::Path(path) if path.path.is_ident("CStr") => syn::parse_quote!(CString),
        other => other.clone(),
    }
}

/// `T` of a `Cow<'_, T>`.
fn inside_cow(ty: &Type) -> Option<Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Cow")?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(ty) => Some(ty.clone()),
        _ => None,
    })
}
