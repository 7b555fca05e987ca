//! From tokens to [`AtomicDef`]: connection, options, result type, block. Finds all mistakes in the
//! options.
//!
//! Must not know: what it expands to.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::spanned::Spanned;
use syn::{Block, Expr, Ident, Path, Token, Type, braced, parse2, token};

use super::options::{LEVELS, Row, Takes, expected};
use super::simple::{self, Simple};
use crate::paths::{Errors, rendered};

/// One `atomic!`.
pub(super) struct AtomicDef {
    /// What the connection is called in the block.
    pub(super) conn: Ident,
    /// The connection, where it isn't the identifier itself.
    pub(super) target: Option<Expr>,
    pub(super) options: Vec<Opt>,
    /// Where the runtime crate is, if not in the extern prelude.
    pub(super) root: Option<Path>,
    pub(super) result: Option<Type>,
    /// Of a block that is a future.
    pub(super) asyncness: Option<Asyncness>,
    pub(super) body: Block,
    /// Those of its statements that were not taken apart, and drop values.
    pub(super) simples: Vec<Simple>,
}

/// `async` or `async move`.
pub(super) struct Asyncness {
    pub(super) token: Token![async],
    pub(super) capture: Option<Token![move]>,
}

/// One option, with the token that the user wrote for it.
pub(super) struct Opt {
    pub(super) key: Ident,
    row: &'static Row,
    pub(super) kind: OptKind,
}

pub(super) enum OptKind {
    Isolation(Ident),
    Flag,
    Retries(Expr),
}

const MISSING: &str = "the block is missing; write `atomic!(conn, { … })`, or `atomic!(conn, async { … }).await`";

impl AtomicDef {
    pub(super) fn parse(input: TokenStream, errors: &mut Errors) -> syn::Result<Self> {
        let (mut atomic, inside) = match Self::without_statements(input.clone(), errors) {
            Some(read) => read,
            // Of the whole input, because the messages are at its own tokens.
            None => (|input: ParseStream<'_>| Self::header(input, errors)).parse2(input.clone())?,
        };
        let is_async = atomic.asyncness.is_some();
        (atomic.body.stmts, atomic.simples) = simple::statements(inside, &atomic.conn, is_async)
            // Of the user's own block, because a message may be at its end.
            .map_err(|error| mistake_in_block(input).unwrap_or(error))?;
        contradictions(&atomic.options, errors);
        Ok(atomic)
    }

    /// Without showing syn what is in the block; `None` where there is a mistake.
    fn without_statements(input: TokenStream, errors: &mut Errors) -> Option<(Self, TokenStream)> {
        let mut tokens: Vec<_> = input.into_iter().collect();
        let ([.., TokenTree::Group(block)] | [.., TokenTree::Group(block), TokenTree::Punct(_)]) = &mut tokens[..]
        else {
            return None;
        };
        let inside = emptied(block)?;
        let mut found = Errors::default();
        let header = |input: ParseStream<'_>| Self::header(input, &mut found);
        let (atomic, _) = header.parse2(tokens.into_iter().collect()).ok()?;
        errors.extend(found);
        Some((atomic, inside))
    }

    /// All but the block's statements, and the tokens of those.
    fn header(input: ParseStream<'_>, errors: &mut Errors) -> syn::Result<(Self, TokenStream)> {
        let (conn, target) = connection(input)?;
        let mut options: Vec<Opt> = Vec::new();
        let (mut result, mut root, mut asyncness) = (None, None, None);
        loop {
            if input.is_empty() {
                return Err(syn::Error::new(input.span(), MISSING));
            }
            input
                .parse::<Token![,]>()
                .map_err(|error| syn::Error::new(error.span(), "expected `,` here: `atomic!(conn, option, { … })`"))?;
            if input.is_empty() {
                return Err(syn::Error::new(input.span(), MISSING));
            }
            if input.peek(token::Brace) {
                break;
            }
            if input.peek(Token![async]) {
                asyncness = Some(self::asyncness(input)?);
                break;
            }
            if input.peek(Token![move]) && input.peek2(token::Brace) {
                let keyword: Token![move] = input.parse()?;
                errors.push(syn::Error::new(
                    keyword.span,
                    "only an async block has a `move`; remove it, or write `async move { … }`",
                ));
                break;
            }
            if input.peek(Token![|]) || input.peek(Token![||]) {
                return Err(syn::Error::new(
                    input.span(),
                    "`atomic!` takes a block, not a closure; write `atomic!(conn, { … })`: in the block the connection \
                     has the name that it has outside",
                ));
            }
            if let Some(arrow) = input.parse::<Option<Token![->]>>()? {
                let ty: Type = input.parse()?;
                if result.replace(ty).is_some() {
                    errors.push(syn::Error::new(arrow.spans[0], "the result type is specified more than once"));
                }
            } else {
                option(input, &mut options, &mut root, errors)?;
            }
        }
        let content;
        let body = Block { brace_token: braced!(content in input), stmts: Vec::new() };
        let inside = content.parse()?;
        let _: Option<Token![,]> = input.parse()?;
        if !input.is_empty() {
            return Err(syn::Error::new(input.span(), "the block comes last; write options before it"));
        }
        let simples = Vec::new();
        Ok((Self { conn, target, options, root, result, asyncness, body, simples }, inside))
    }
}

/// What syn says of the block as it was written: braces that are put together again have no end of
/// their own to point at.
fn mistake_in_block(input: TokenStream) -> Option<syn::Error> {
    let is_block =
        |token: &TokenTree| matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
    let block = input.into_iter().filter(is_block).last()?;
    parse2::<Block>(block.into()).err()
}

/// Empties a block; returns what was in it.
fn emptied(block: &mut Group) -> Option<TokenStream> {
    if block.delimiter() != Delimiter::Brace {
        return None;
    }
    let inside = block.stream();
    let span = block.span();
    *block = Group::new(Delimiter::Brace, TokenStream::new());
    block.set_span(span);
    Some(inside)
}

/// `async` or `async move`, with a block behind it.
fn asyncness(input: ParseStream<'_>) -> syn::Result<Asyncness> {
    let asyncness = Asyncness { token: input.parse()?, capture: input.parse()? };
    if input.peek(token::Brace) {
        return Ok(asyncness);
    }
    let instead = if input.peek(Token![|]) || input.peek(Token![||]) {
        "`atomic!` takes a block, not a closure; write `atomic!(conn, async { … }).await`: in the block the connection \
         has the name that it has outside"
    } else {
        "`atomic!` takes an async block; write `atomic!(conn, async { … }).await`"
    };
    Err(syn::Error::new(asyncness.token.span, instead))
}

/// `conn` or `conn = expr`.
fn connection(input: ParseStream<'_>) -> syn::Result<(Ident, Option<Expr>)> {
    if input.is_empty() {
        return Err(syn::Error::new(
            Span::call_site(),
            "the connection and the block are missing; write `atomic!(conn, { … })`, or \
             `atomic!(conn, async { … }).await`",
        ));
    }
    if input.peek(Ident) && (input.peek2(Token![,]) || input.cursor().token_tree().is_some_and(|(_, rest)| rest.eof()))
    {
        return Ok((input.parse()?, None));
    }
    if input.peek(Ident) && input.peek2(Token![=]) && !input.peek2(Token![==]) {
        let conn = input.parse()?;
        input.parse::<Token![=]>()?;
        return Ok((conn, Some(input.parse()?)));
    }
    if input.peek(Ident) && input.peek2(Token![async]) {
        let conn: Ident = input.parse()?;
        let missing = format!("a comma is missing; write `atomic!({conn}, async {{ … }}).await`");
        return Err(syn::Error::new(input.span(), missing));
    }
    if input.peek(Ident) && input.peek2(token::Brace) {
        let conn: Ident = input.parse()?;
        return Err(syn::Error::new(input.span(), format!("a comma is missing; write `atomic!({conn}, {{ … }})`")));
    }
    if input.peek(token::Brace) {
        return Err(syn::Error::new(input.span(), "the connection is missing; write `atomic!(conn, { … })`"));
    }
    if input.peek(Token![async]) {
        let missing = "the connection is missing; write `atomic!(conn, async { … }).await`";
        return Err(syn::Error::new(input.span(), missing));
    }
    let expr: Expr = input.parse()?;
    let advice = match &expr {
        Expr::Reference(reference) if matches!(&*reference.expr, Expr::Path(path) if path.path.get_ident().is_some()) =>
        {
            format!("`atomic!` borrows the connection itself; write `atomic!({}, …)`", rendered(&reference.expr))
        }
        _ => {
            format!("the block needs a name for this connection; write `atomic!(conn = {}, {{ … }})`", rendered(&expr))
        }
    };
    Err(syn::Error::new_spanned(expr, advice))
}

/// One option; a mistake in it does not hide those behind it.
fn option(
    input: ParseStream<'_>,
    options: &mut Vec<Opt>,
    root: &mut Option<Path>,
    errors: &mut Errors,
) -> syn::Result<()> {
    if !input.peek(Ident::peek_any) {
        return Err(syn::Error::new(input.span(), format!("expected the block or an option: {}", expected())));
    }
    let key = input.call(Ident::parse_any)?;
    let name = key.to_string();
    let Some(row) = Row::of(&name) else {
        if input.peek(Token![=]) || input.peek(Token![,]) {
            skip_to_comma(input)?;
            errors
                .push(syn::Error::new(key.span(), format!("unknown option `{name}`; expected one of {}", expected())));
            return Ok(());
        }
        let missing = "expected a block; write `atomic!(conn, { … })`, or `atomic!(conn, async { … }).await`";
        return Err(syn::Error::new(key.span(), missing));
    };
    let kind = match row.takes {
        Takes::Level => value(input, &key, "isolation = Serializable").and_then(|value| level(&value)),
        Takes::Count => value(input, &key, "retries = 3").map(OptKind::Retries),
        Takes::Path => {
            input.parse::<Token![=]>()?;
            if root.replace(input.call(Path::parse_mod_style)?).is_some() {
                errors.push(syn::Error::new(key.span(), format!("`{name}` specified more than once")));
            }
            return Ok(());
        }
        Takes::Nothing => match input.parse::<Option<Token![=]>>()? {
            None => Ok(OptKind::Flag),
            Some(equals) => {
                skip_to_comma(input)?;
                Err(syn::Error::new(equals.span, format!("`{name}` takes no value; write `{name}`, or leave it out")))
            }
        },
    };
    match kind {
        Ok(_) if options.iter().any(|option| option.key == key) => {
            errors.push(syn::Error::new(key.span(), format!("`{name}` specified more than once")));
        }
        Ok(kind) => options.push(Opt { key, row, kind }),
        Err(error) => errors.push(error),
    }
    Ok(())
}

fn value(input: ParseStream<'_>, key: &Ident, example: &str) -> syn::Result<Expr> {
    if input.parse::<Option<Token![=]>>()?.is_none() {
        return Err(syn::Error::new(key.span(), format!("`{key}` needs a value; write `{example}`")));
    }
    input.parse()
}

fn level(value: &Expr) -> syn::Result<OptKind> {
    let level = match value {
        Expr::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    };
    match level {
        Some(level) if LEVELS.iter().any(|known| level == known) => Ok(OptKind::Isolation(level.clone())),
        _ => Err(syn::Error::new_spanned(
            value,
            "unknown isolation level; expected `Serializable`, `RepeatableRead`, `ReadCommitted` or `ReadUncommitted`",
        )),
    }
}

/// No transaction has both of two.
fn contradictions(options: &[Opt], errors: &mut Errors) {
    for (at, option) in options.iter().enumerate() {
        for other in options[at + 1..].iter() {
            let found = [(option, other), (other, option)]
                .into_iter()
                .find_map(|(one, other)| Some((one, one.row.contradicts(other.row)?)));
            if let Some((option, message)) = found {
                errors.push(syn::Error::new(option.key.span(), message));
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

/// The first token's span.
pub(super) fn start(expr: &impl Spanned) -> Span {
    expr.span()
}
