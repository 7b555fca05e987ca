//! What an option may be set to: from a literal to a value of its type.
//!
//! Must not know: which options there are.

use syn::{Ident, Lit, LitStr, Path};

/// Something that an option is set to.
pub(super) trait Value: Sized {
    /// What such an option takes.
    const TAKES: &'static str;

    /// `None` of a literal of another kind; an error of one that makes no sense.
    fn read(key: &Ident, literal: &Lit) -> Option<syn::Result<Self>>;
}

/// How often a call is tried: never 0.
#[derive(Clone, Copy)]
pub(super) struct Attempts(pub(super) u16);

/// More than none.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) milliseconds: u64,
}

/// Which of two calls of one key stays.
#[derive(Clone, Copy)]
pub(super) enum Unique {
    Keep,
    Replace,
}

impl Value for LitStr {
    const TAKES: &'static str = "a string";

    fn read(key: &Ident, literal: &Lit) -> Option<syn::Result<Self>> {
        let Lit::Str(literal) = literal else { return None };
        Some(match literal.value().is_empty() {
            true => Err(syn::Error::new(literal.span(), format!("`{key}` cannot be empty; leave the option out"))),
            false => Ok(literal.clone()),
        })
    }
}

impl Value for Path {
    const TAKES: &'static str = "a string";

    fn read(key: &Ident, literal: &Lit) -> Option<syn::Result<Self>> {
        let Lit::Str(literal) = literal else { return None };
        Some(literal.parse_with(Self::parse_mod_style).map_err(|_| {
            let message = format!("expected a path, such as `{key} = \"my_crate::diesel_deferred\"`");
            syn::Error::new(literal.span(), message)
        }))
    }
}

impl Value for i16 {
    const TAKES: &'static str = "a whole number from -32768 to 32767, the lowest of which runs first";

    fn read(_: &Ident, literal: &Lit) -> Option<syn::Result<Self>> {
        let Lit::Int(literal) = literal else { return None };
        literal.base10_parse().ok().map(Ok)
    }
}

impl Value for Attempts {
    const TAKES: &'static str = "a whole number from 1 to 65535";

    fn read(key: &Ident, literal: &Lit) -> Option<syn::Result<Self>> {
        let Lit::Int(literal) = literal else { return None };
        Some(match literal.base10_parse().ok()? {
            0 => {
                let message =
                    format!("a task that is tried 0 times never runs; write `{key} = 1` for one without a retry");
                Err(syn::Error::new(literal.span(), message))
            }
            attempts => Ok(Self(attempts)),
        })
    }
}

impl Value for Time {
    const TAKES: &'static str = "a time: a string of a whole number and one of `ms`, `s`, `m`, `h` and `d`";

    fn read(key: &Ident, literal: &Lit) -> Option<syn::Result<Self>> {
        let Lit::Str(literal) = literal else { return None };
        let milliseconds = milliseconds(&literal.value())?;
        Some(match milliseconds {
            0 => Err(syn::Error::new(literal.span(), format!("`{key}` cannot be zero; leave the option out"))),
            milliseconds => Ok(Self { milliseconds }),
        })
    }
}

fn milliseconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // Databases count in signed numbers, and a year has less than 2^35 of these.
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|&milliseconds| milliseconds < 1 << 50)
}

impl Value for Unique {
    const TAKES: &'static str = "`\"keep\"`, by which a new call is dropped while one of the same key waits, or \
                                 `\"replace\"`, by which it takes the place of that one";

    fn read(_: &Ident, literal: &Lit) -> Option<syn::Result<Self>> {
        let Lit::Str(literal) = literal else { return None };
        match literal.value().as_str() {
            "keep" => Some(Ok(Self::Keep)),
            "replace" => Some(Ok(Self::Replace)),
            _ => None,
        }
    }
}
