//! Statements of a block that are not taken apart. Most are calls and `let`s with nothing in them
//! that is rewritten, and `if`, `for`, `while` and `match` around such; their tokens say so. To have
//! syn parse those, too, would take longer than all that is done with them.
//!
//! What is wrong in them the compiler says itself. Where anything is out of the ordinary, syn
//! decides.
//!
//! Must not know: what becomes of a value.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::{Block, Expr, Ident, Stmt};

use super::macros::{is_a_known_one, is_one_with_value};

/// A statement in which values are dropped. In the block an empty `Expr::Verbatim` stands for it.
pub(super) struct Simple {
    /// Which statement of the block it is.
    pub(super) at: usize,
    pub(super) pieces: Vec<Piece>,
}

/// A piece of a statement.
pub(super) enum Piece {
    Token(TokenTree),
    /// `{ … }`, and where.
    Braces(Vec<Piece>, Span),
    Chain(Chain),
    /// The `;` behind a chain, or behind braces.
    Semi(Span),
}

/// An expression of calls, fields and `?` only, such as `f(x)?`: a value that is dropped.
pub(super) struct Chain {
    pub(super) tokens: Vec<TokenTree>,
    pub(super) first: Span,
    pub(super) last: Span,
    /// Whether it is the end of a block or arm.
    pub(super) is_tail: bool,
}

/// The statements between these braces; those that are not taken apart are `Expr::Verbatim`s.
pub(super) fn statements(inside: TokenStream, conn: &Ident, is_async: bool) -> syn::Result<(Vec<Stmt>, Vec<Simple>)> {
    let (mut simples, mut stmts) = (Vec::new(), Vec::new());
    let tokens: Vec<_> = inside.into_iter().collect();
    let reader = Reader { conn, is_async };
    let mut rest = Rest(&tokens);
    while !rest.is_empty() {
        if let Some((pieces, next)) = reader.statement(rest) {
            let tokens = only_tokens(pieces).unwrap_or_else(|pieces| {
                simples.push(Simple { at: stmts.len(), pieces });
                TokenStream::new()
            });
            stmts.push(Stmt::Expr(Expr::Verbatim(tokens), None));
            rest = next;
        } else {
            // A `;` is nothing but the end of a statement: what stands before one is complete.
            let (taken, next) = rest.through_semicolon();
            stmts.extend(taken_apart(taken)?);
            rest = next;
        }
    }
    Ok((stmts, simples))
}

/// By syn.
fn taken_apart(tokens: &[TokenTree]) -> syn::Result<Vec<Stmt>> {
    Block::parse_within.parse2(tokens.iter().cloned().collect())
}

fn only_tokens(pieces: Vec<Piece>) -> Result<TokenStream, Vec<Piece>> {
    if !pieces.iter().all(|piece| matches!(piece, Piece::Token(_))) {
        return Err(pieces);
    }
    let tokens = pieces.into_iter().filter_map(|piece| match piece {
        Piece::Token(token) => Some(token),
        Piece::Braces(..) | Piece::Chain(_) | Piece::Semi(_) => None,
    });
    Ok(tokens.collect())
}

/// What a statement is, up to the `;`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `let`, with its `;`.
    Let,
    /// `if`, `for`, `while` or `match`: needs no `;`.
    Compound,
    Chain,
    /// `return`, `break`, `continue`.
    Leaves,
    Macro,
}

/// The tokens that are not read yet.
#[derive(Clone, Copy)]
struct Rest<'c>(&'c [TokenTree]);

impl<'c> Rest<'c> {
    fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    fn token(self) -> Option<(&'c TokenTree, Self)> {
        self.0.split_first().map(|(token, rest)| (token, Self(rest)))
    }

    fn ident(self) -> Option<(&'c Ident, Self)> {
        match self.token() {
            Some((TokenTree::Ident(name), rest)) => Some((name, rest)),
            _ => None,
        }
    }

    fn braces(self) -> Option<(&'c Group, Self)> {
        match self.token() {
            Some((TokenTree::Group(group), rest)) if group.delimiter() == Delimiter::Brace => Some((group, rest)),
            _ => None,
        }
    }

    fn punct(self) -> Option<char> {
        match self.0.first() {
            Some(TokenTree::Punct(punct)) => Some(punct.as_char()),
            _ => None,
        }
    }

    /// What stands before the next `;`, with that, and the rest.
    fn through_semicolon(self) -> (&'c [TokenTree], Self) {
        let end = self.0.iter().position(|token| is_punct(token, ';')).map_or(self.0.len(), |at| at + 1);
        let (before, rest) = self.0.split_at(end);
        (before, Self(rest))
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

struct Reader<'a> {
    conn: &'a Ident,
    is_async: bool,
}

impl Reader<'_> {
    /// A statement of the block itself. Its last one, which has the block's value, is left to syn.
    fn statement<'c>(&self, begin: Rest<'c>) -> Option<(Vec<Piece>, Rest<'c>)> {
        let mut pieces = Vec::new();
        let (kind, mut rest) = self.expression(begin, &mut pieces)?;
        let is_complete = kind == Kind::Let || semicolon(kind, &mut rest, &mut pieces) || kind == Kind::Compound;
        (is_complete && kind != Kind::Leaves && !rest.is_empty()).then_some((pieces, rest))
    }

    /// All statements of a block inside.
    fn statements_in(&self, block: &Group) -> Option<Piece> {
        let tokens: Vec<_> = block.stream().into_iter().collect();
        let (mut pieces, mut rest) = (Vec::new(), Rest(&tokens));
        while !rest.is_empty() {
            let (kind, next) = self.expression(rest, &mut pieces)?;
            rest = next;
            if kind == Kind::Let || semicolon(kind, &mut rest, &mut pieces) || kind == Kind::Compound {
                continue;
            }
            if !rest.is_empty() {
                return None;
            }
            end_with(&mut pieces)?;
        }
        Some(Piece::Braces(pieces, block.span()))
    }

    /// The arms of a `match`.
    fn arms_in(&self, block: &Group) -> Option<Piece> {
        let tokens: Vec<_> = block.stream().into_iter().collect();
        let (mut pieces, mut rest) = (Vec::new(), Rest(&tokens));
        while !rest.is_empty() {
            rest = self.pattern(rest, &mut pieces)?;
            match rest.braces() {
                Some((block, next)) => {
                    pieces.push(self.statements_in(block)?);
                    rest = next;
                }
                None => {
                    let (kind, next) = self.expression(rest, &mut pieces)?;
                    if kind == Kind::Let {
                        return None;
                    }
                    end_with(&mut pieces)?;
                    rest = next;
                }
            }
            match rest.token() {
                Some((TokenTree::Punct(comma), next)) if comma.as_char() == ',' => {
                    pieces.push(Piece::Token(TokenTree::Punct(comma.clone())));
                    rest = next;
                }
                // The next one, behind braces.
                Some((TokenTree::Ident(_) | TokenTree::Literal(_), _)) | None => {}
                Some((TokenTree::Punct(_) | TokenTree::Group(_), _)) => return None,
            }
        }
        Some(Piece::Braces(pieces, block.span()))
    }

    /// A pattern, and its guard, with the `=>`.
    fn pattern<'c>(&self, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<Rest<'c>> {
        let (mut rest, mut before) = (begin, Before::Other);
        loop {
            let (token, next) = rest.token()?;
            if self.is_mentioned_in(token) || !self.has_nothing(&mut before, token) {
                return None;
            }
            pieces.push(Piece::Token(token.clone()));
            rest = next;
            if is_punct(token, '=')
                && let Some((end, next)) = rest.token()
                && is_punct(end, '>')
            {
                pieces.push(Piece::Token(end.clone()));
                return Some(next);
            }
        }
    }

    /// A statement or the value of an arm, without what ends it.
    fn expression<'c>(&self, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<(Kind, Rest<'c>)> {
        let (name, rest) = begin.ident()?;
        let word = name.to_string();
        match word.as_str() {
            "let" => Some((Kind::Let, self.local(name, rest, pieces)?)),
            "if" | "for" | "while" | "match" => {
                let rest = self.compound(name, &word, rest, pieces)?;
                // What is called on its value is a part of the expression.
                let goes_on = matches!(rest.punct(), Some('.' | '?'));
                (!goes_on).then_some((Kind::Compound, rest))
            }
            "return" | "break" | "continue" => Some((Kind::Leaves, self.leaves(name, rest, pieces)?)),
            word if is_keyword(word) => None,
            _ if rest.punct() == Some('!') => Some((Kind::Macro, known_macro(name, rest, pieces)?)),
            _ => {
                let (chain, rest) = self.chain(name, rest)?;
                pieces.push(Piece::Chain(chain));
                Some((Kind::Chain, rest))
            }
        }
    }

    /// `if`, `for`, `while` or `match`, with all its blocks.
    fn compound<'c>(&self, keyword: &Ident, word: &str, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<Rest<'c>> {
        pieces.push(Piece::Token(TokenTree::Ident(keyword.clone())));
        let rest = self.head(word == "for", begin, pieces)?;
        let (block, rest) = rest.braces()?;
        pieces.push(if word == "match" { self.arms_in(block)? } else { self.statements_in(block)? });
        match rest.ident() {
            Some((otherwise, next)) if word == "if" && otherwise == "else" => {
                pieces.push(Piece::Token(TokenTree::Ident(otherwise.clone())));
                if let Some((block, rest)) = next.braces() {
                    pieces.push(self.statements_in(block)?);
                    return Some(rest);
                }
                let (again, rest) = next.ident()?;
                if again == "if" { self.compound(again, word, rest, pieces) } else { None }
            }
            _ => Some(rest),
        }
    }

    /// What stands before the braces. Those of a pattern are none of these; and a pattern may shadow
    /// the connection.
    fn head<'c>(&self, begins_with_pattern: bool, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<Rest<'c>> {
        let (mut rest, mut before, mut in_pattern) = (begin, Before::Other, begins_with_pattern);
        let mut last = None;
        loop {
            if !in_pattern && rest.braces().is_some() {
                return last.is_some_and(ends_a_value).then_some(rest);
            }
            let (token, next) = rest.token()?;
            last = Some(token);
            if in_pattern && self.is_mentioned_in(token) {
                return None;
            }
            match token {
                TokenTree::Ident(name) => match name.to_string().as_str() {
                    "let" => in_pattern = true,
                    "in" => in_pattern = false,
                    "_" | "as" | "await" | "dyn" | "false" | "mut" | "ref" | "true" => {}
                    word if is_keyword(word) => return None,
                    _ => {}
                },
                // Not that of `..=`.
                TokenTree::Punct(punct) if punct.as_char() == '=' && !matches!(before, Before::Dot) => {
                    in_pattern = false;
                }
                _ => {}
            }
            if !self.has_nothing(&mut before, token) {
                return None;
            }
            pieces.push(Piece::Token(token.clone()));
            rest = next;
        }
    }

    /// `let name = …;`, also with a type. Another pattern may shadow the connection.
    fn local<'c>(&self, keyword: &Ident, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<Rest<'c>> {
        pieces.push(Piece::Token(TokenTree::Ident(keyword.clone())));
        let (mut name, mut rest) = begin.ident()?;
        if name == "mut" {
            pieces.push(Piece::Token(TokenTree::Ident(name.clone())));
            (name, rest) = rest.ident()?;
        }
        let is_path = matches!(rest.0, [colon, second, ..] if is_punct(colon, ':') && is_punct(second, ':'));
        if name == "_" || name == self.conn || is_path || !matches!(rest.punct(), Some('=' | ':')) {
            return None;
        }
        pieces.push(Piece::Token(TokenTree::Ident(name.clone())));
        let mut before = Before::Other;
        loop {
            let (token, next) = rest.token()?;
            if !self.has_nothing(&mut before, token) {
                return None;
            }
            pieces.push(Piece::Token(token.clone()));
            rest = next;
            if is_punct(token, ';') {
                return Some(rest);
            }
        }
    }

    /// `return …`, `break` or `continue`.
    fn leaves<'c>(&self, keyword: &Ident, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<Rest<'c>> {
        pieces.push(Piece::Token(TokenTree::Ident(keyword.clone())));
        let (mut rest, mut before) = (begin, Before::Other);
        while !matches!(rest.punct(), Some(';' | ',')) {
            let Some((token, next)) = rest.token() else { break };
            if !self.has_nothing(&mut before, token) {
                return None;
            }
            pieces.push(Piece::Token(token.clone()));
            rest = next;
        }
        Some(rest)
    }

    /// `name`, and what may follow it in an expression that is a path, call, field or `?`.
    fn chain<'c>(&self, name: &Ident, begin: Rest<'c>) -> Option<(Chain, Rest<'c>)> {
        let first = name.span();
        let (mut last, mut rest, mut tokens) = (first, begin, vec![TokenTree::Ident(name.clone())]);
        while let Some((token, next)) = rest.token() {
            match token {
                TokenTree::Punct(punct) => match punct.as_char() {
                    ';' | ',' => break,
                    '?' => last = punct.span(),
                    '.' => {
                        let (member, after) = next.token()?;
                        match member {
                            TokenTree::Ident(name) if self.is_async || name != "await" => last = name.span(),
                            TokenTree::Literal(index) => last = index.span(),
                            _ => return None,
                        }
                        tokens.extend([token, member].map(TokenTree::clone));
                        rest = after;
                        continue;
                    }
                    ':' if is_path(&tokens) => {
                        tokens.push(token.clone());
                        (last, rest) = self.segment(next, &mut tokens)?;
                        continue;
                    }
                    _ => return None,
                },
                TokenTree::Group(group) if is_call_or_index(group.delimiter()) => {
                    if !self.has_nothing(&mut Before::Other, token) {
                        return None;
                    }
                    last = group.span_close();
                }
                _ => return None,
            }
            tokens.push(token.clone());
            rest = next;
        }
        Some((Chain { tokens, first, last, is_tail: false }, rest))
    }

    /// The second `:` and what follows it: a name, or generic arguments.
    fn segment<'c>(&self, begin: Rest<'c>, tokens: &mut Vec<TokenTree>) -> Option<(Span, Rest<'c>)> {
        let (colon, mut rest) = begin.token().filter(|(token, _)| is_punct(token, ':'))?;
        tokens.push(colon.clone());
        let (mut depth, mut before) = (0, Before::Other);
        loop {
            let (token, next) = rest.token()?;
            match token {
                TokenTree::Ident(_) if depth == 0 => {}
                TokenTree::Punct(punct) => match punct.as_char() {
                    '<' => depth += 1,
                    '>' => depth -= 1,
                    ',' | ':' | '\'' | '&' => {}
                    _ => return None,
                },
                _ if !self.has_nothing(&mut before, token) => return None,
                _ => {}
            }
            tokens.push(token.clone());
            rest = next;
            match depth {
                0 => return Some((token.span(), rest)),
                1.. => {}
                ..0 => return None,
            }
        }
    }

    /// Whether the connection's name is in this token.
    fn is_mentioned_in(&self, token: &TokenTree) -> bool {
        match token {
            TokenTree::Ident(name) => name == self.conn,
            TokenTree::Group(group) => group.stream().into_iter().any(|token| self.is_mentioned_in(&token)),
            TokenTree::Punct(_) | TokenTree::Literal(_) => false,
        }
    }

    /// Whether nothing in this token is rewritten or refused.
    fn has_nothing(&self, before: &mut Before, token: &TokenTree) -> bool {
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
                let mut before = Before::Other;
                // Not a block, nor what a `macro_rules!` was given.
                is_call_or_index(group.delimiter())
                    && group.stream().into_iter().all(|token| self.has_nothing(&mut before, &token))
            }
        }
    }
}

/// Reads the `;` behind it, if there is one.
fn semicolon(kind: Kind, rest: &mut Rest<'_>, pieces: &mut Vec<Piece>) -> bool {
    let Some((semi, next)) = rest.token().filter(|(token, _)| is_punct(token, ';')) else { return false };
    *rest = next;
    pieces.push(match kind {
        Kind::Chain | Kind::Compound => Piece::Semi(semi.span()),
        Kind::Let | Kind::Leaves | Kind::Macro => Piece::Token(semi.clone()),
    });
    true
}

/// What was read last is the end of a block or arm. The type of `Err(e)?` is what its place asks
/// for: that one is left to syn.
fn end_with(pieces: &mut [Piece]) -> Option<()> {
    if let Some(Piece::Chain(chain)) = pieces.last_mut() {
        chain.is_tail = true;
        let is_err = |token: &TokenTree| matches!(token, TokenTree::Ident(name) if name == "Err");
        return (!chain.tokens.iter().any(is_err)).then_some(());
    }
    Some(())
}

/// `println!(…)`
fn known_macro<'c>(name: &Ident, begin: Rest<'c>, pieces: &mut Vec<Piece>) -> Option<Rest<'c>> {
    let (bang, rest) = begin.token()?;
    let (arguments, rest) = rest.token()?;
    let is_call = matches!(arguments, TokenTree::Group(group) if is_call_or_index(group.delimiter()));
    // What is called on its value is a part of the expression.
    let goes_on = rest.punct().is_some_and(|punct| !matches!(punct, ';' | ','));
    if !is_call || goes_on || !is_a_known_one(name) || is_one_with_value(name) {
        return None;
    }
    pieces.extend([TokenTree::Ident(name.clone()), bang.clone(), arguments.clone()].map(Piece::Token));
    Some(rest)
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

/// Whether braces behind this token are surely those of a body. Behind an operator, `in`, a macro's
/// `!` or nothing they are a part of the value: `while { f(); x } {}`, `f::<{ N }>()`.
fn ends_a_value(token: &TokenTree) -> bool {
    match token {
        TokenTree::Ident(name) => !["as", "dyn", "in", "let", "mut", "ref"].iter().any(|word| name == word),
        TokenTree::Punct(punct) => punct.as_char() == '?',
        TokenTree::Literal(_) | TokenTree::Group(_) => true,
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
