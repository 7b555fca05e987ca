//! Statements of a block that are not taken apart. Most are calls and `let`s with nothing in them
//! that is rewritten, and their first few tokens say so. To have syn parse those, too, would take
//! longer than all that is done with them.
//!
//! What is wrong in them the compiler says itself. Where anything is out of the ordinary, syn
//! decides.
//!
//! Must not know: what becomes of a statement.

use proc_macro2::{Delimiter, Span, TokenTree};
use syn::buffer::Cursor;
use syn::parse::ParseStream;
use syn::parse::discouraged::Speculative;
use syn::{Block, Expr, Ident, MacroDelimiter, Stmt, StmtMacro, Token, braced};

use super::macros::{is_a_known_one, is_one_with_value};

/// A statement of calls, fields and `?` only, such as `f(x)?;`: a value that is dropped. In the
/// block it is an `Expr::Verbatim`.
pub(super) struct Chain {
    /// Which statement of the block it is.
    pub(super) at: usize,
    pub(super) first: Span,
    pub(super) last: Span,
}

/// The block's statements; those that are not taken apart are `Expr::Verbatim`s.
pub(super) fn block(input: ParseStream<'_>, conn: &Ident, is_async: bool) -> syn::Result<(Block, Vec<Chain>)> {
    let (mut chains, mut stmts) = (Vec::new(), Vec::new());
    let content;
    let brace_token = braced!(content in input);
    let reader = Reader { conn, is_async };
    while !content.is_empty() {
        let simple = content.step(|cursor| {
            let simple = reader.statement(*cursor);
            Ok(simple.map_or((None, *cursor), |(simple, rest)| (Some(simple), rest)))
        })?;
        match simple {
            Some(Simple::Chain(tokens, first, last, semi)) => {
                chains.push(Chain { at: stmts.len(), first, last });
                stmts.push(Stmt::Expr(Expr::Verbatim(tokens.into_iter().collect()), Some(Token![;](semi))));
            }
            Some(Simple::Other(tokens)) => stmts.push(Stmt::Expr(Expr::Verbatim(tokens.into_iter().collect()), None)),
            None => {
                let ahead = content.fork();
                match ahead.parse() {
                    Ok(stmt) if ahead.is_empty() || !is_a_call_without_semicolon(&stmt) => {
                        content.advance_to(&ahead);
                        stmts.push(stmt);
                    }
                    // The last one, which needs no `;`, or a mistake.
                    Ok(_) | Err(_) => stmts.extend(content.call(Block::parse_within)?),
                }
            }
        }
    }
    Ok((Block { brace_token, stmts }, chains))
}

fn is_a_call_without_semicolon(stmt: &Stmt) -> bool {
    let Stmt::Macro(StmtMacro { mac, semi_token: None, .. }) = stmt else { return false };
    !matches!(mac.delimiter, MacroDelimiter::Brace(_))
}

enum Simple {
    /// Its tokens, the spans of the first and last, and that of its `;`.
    Chain(Vec<TokenTree>, Span, Span, Span),
    /// A `let`, or a macro of std's, with its `;`.
    Other(Vec<TokenTree>),
}

struct Reader<'a> {
    conn: &'a Ident,
    is_async: bool,
}

impl Reader<'_> {
    fn statement<'c>(&self, begin: Cursor<'c>) -> Option<(Simple, Cursor<'c>)> {
        let (TokenTree::Ident(name), rest) = begin.token_tree()? else { return None };
        let word = name.to_string();
        if word == "let" {
            return self.local(name, rest);
        }
        if is_keyword(&word) {
            return None;
        }
        match rest.punct() {
            Some((punct, _)) if punct.as_char() == '!' => Self::known_macro(name, rest),
            _ => self.chain(name, rest),
        }
    }

    /// `let name = …;`, also with a type. Another pattern may shadow the connection.
    fn local<'c>(&self, keyword: Ident, begin: Cursor<'c>) -> Option<(Simple, Cursor<'c>)> {
        let mut tokens = vec![TokenTree::Ident(keyword)];
        let (mut name, mut rest) = begin.ident()?;
        if name == "mut" {
            tokens.push(TokenTree::Ident(name));
            (name, rest) = rest.ident()?;
        }
        if name == "_" || name == *self.conn {
            return None;
        }
        tokens.push(TokenTree::Ident(name));
        let (punct, _) = rest.punct()?;
        if !matches!(punct.as_char(), '=' | ':') {
            return None;
        }
        let mut before = Before::Other;
        loop {
            let (token, next) = rest.token_tree()?;
            let is_end = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ';');
            if !self.has_nothing(&mut before, rest, &token) {
                return None;
            }
            tokens.push(token);
            rest = next;
            if is_end {
                // Where a block ends with it, that is a mistake.
                return (!rest.eof()).then_some((Simple::Other(tokens), rest));
            }
        }
    }

    /// `println!(…);`
    fn known_macro(name: Ident, begin: Cursor<'_>) -> Option<(Simple, Cursor<'_>)> {
        let (bang, rest) = begin.token_tree()?;
        let (arguments, rest) = rest.token_tree()?;
        let (semi, rest) = rest.token_tree()?;
        let is_call = matches!(&arguments, TokenTree::Group(group) if is_call_or_index(group.delimiter()));
        let is_end = matches!(&semi, TokenTree::Punct(punct) if punct.as_char() == ';');
        if !is_call || !is_end || rest.eof() || !is_a_known_one(&name) || is_one_with_value(&name) {
            return None;
        }
        Some((Simple::Other(vec![TokenTree::Ident(name), bang, arguments, semi]), rest))
    }

    /// `name`, and what may follow it in an expression that is a path, call, field or `?`.
    fn chain<'c>(&self, name: Ident, begin: Cursor<'c>) -> Option<(Simple, Cursor<'c>)> {
        let first = name.span();
        let (mut last, mut rest, mut tokens) = (first, begin, vec![TokenTree::Ident(name)]);
        loop {
            let (token, next) = rest.token_tree()?;
            match &token {
                TokenTree::Punct(punct) => match punct.as_char() {
                    ';' => return Some((Simple::Chain(tokens, first, last, punct.span()), next)),
                    '?' => last = punct.span(),
                    '.' => {
                        let (member, after) = next.token_tree()?;
                        match &member {
                            TokenTree::Ident(name) if self.is_async || name != "await" => last = name.span(),
                            TokenTree::Literal(index) => last = index.span(),
                            _ => return None,
                        }
                        tokens.extend([token, member]);
                        rest = after;
                        continue;
                    }
                    ':' if is_path(&tokens) => {
                        tokens.push(token);
                        (last, rest) = self.segment(next, &mut tokens)?;
                        continue;
                    }
                    _ => return None,
                },
                TokenTree::Group(group) if is_call_or_index(group.delimiter()) => {
                    if !self.has_nothing(&mut Before::Other, rest, &token) {
                        return None;
                    }
                    last = group.span_close();
                }
                _ => return None,
            }
            tokens.push(token);
            rest = next;
        }
    }

    /// The second `:` and what follows it: a name, or generic arguments.
    fn segment<'c>(&self, begin: Cursor<'c>, tokens: &mut Vec<TokenTree>) -> Option<(Span, Cursor<'c>)> {
        let (colon, rest) = begin.token_tree()?;
        if !matches!(&colon, TokenTree::Punct(punct) if punct.as_char() == ':') {
            return None;
        }
        tokens.push(colon);
        let (mut token, mut next) = rest.token_tree()?;
        let (mut rest, mut depth, mut before) = (rest, 0, Before::Other);
        loop {
            match &token {
                TokenTree::Ident(_) if depth == 0 => {}
                TokenTree::Punct(punct) => match punct.as_char() {
                    '<' => depth += 1,
                    '>' => depth -= 1,
                    ',' | ':' | '\'' | '&' => {}
                    _ => return None,
                },
                _ if !self.has_nothing(&mut before, rest, &token) => return None,
                _ => {}
            }
            let last = token.span();
            tokens.push(token);
            match depth {
                0 => return Some((last, next)),
                1.. => {}
                ..0 => return None,
            }
            rest = next;
            (token, next) = rest.token_tree()?;
        }
    }

    /// Whether nothing in this token, which the cursor is at, is rewritten or refused.
    fn has_nothing(&self, before: &mut Before, at: Cursor<'_>, token: &TokenTree) -> bool {
        let (was, is) = (std::mem::take(before), before);
        match token {
            TokenTree::Ident(name) => match was {
                // `&mut conn`
                Before::And if name == "mut" => false,
                Before::Dot if !self.is_async && name == "await" => false,
                _ => {
                    *is = Before::Name(name.clone());
                    true
                }
            },
            TokenTree::Punct(punct) => {
                match punct.as_char() {
                    // Of a closure, an attribute.
                    '|' | '#' => return false,
                    '!' => match was {
                        Before::Name(name) => return is_a_known_one(&name),
                        Before::And | Before::Dot | Before::Other => {}
                    },
                    '&' => *is = Before::And,
                    '.' => *is = Before::Dot,
                    _ => {}
                }
                true
            }
            TokenTree::Literal(_) => true,
            TokenTree::Group(group) => {
                let inside = match group.delimiter() {
                    delimiter @ (Delimiter::Parenthesis | Delimiter::Bracket) => at.group(delimiter),
                    // A block, or what a `macro_rules!` was given.
                    Delimiter::Brace | Delimiter::None => None,
                };
                inside.is_some_and(|(inside, _, _)| self.have_nothing(inside))
            }
        }
    }

    fn have_nothing(&self, mut inside: Cursor<'_>) -> bool {
        let mut before = Before::Other;
        while let Some((token, next)) = inside.token_tree() {
            if !self.has_nothing(&mut before, inside, &token) {
                return false;
            }
            inside = next;
        }
        true
    }
}

/// The token before.
#[derive(Default)]
enum Before {
    And,
    Dot,
    Name(Ident),
    #[default]
    Other,
}

/// Whether what is read so far can go on with `::`.
fn is_path(tokens: &[TokenTree]) -> bool {
    match tokens.last() {
        Some(TokenTree::Ident(_)) => true,
        Some(TokenTree::Punct(punct)) => punct.as_char() == '>',
        _ => false,
    }
}

fn is_call_or_index(delimiter: Delimiter) -> bool {
    matches!(delimiter, Delimiter::Parenthesis | Delimiter::Bracket)
}

/// Words that cannot begin a chain. `self`, `Self`, `super` and `crate` can.
fn is_keyword(word: &str) -> bool {
    const KEYWORDS: &[&str] = &[
        "_", "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else",
        "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match",
        "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "static", "struct", "trait", "true", "try",
        "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    ];
    KEYWORDS.contains(&word)
}
