//! No two source files of a crate import each other in a circle: a file can be read without the one
//! that reads it.
//!
//! `cargo test -p diesel-deferred-macros --test circles`. It is a test here and no script, because
//! `syn` is here: comments, strings, nested groups, renamed imports and `#[path]` are read as the
//! compiler reads them, and a new machine needs nothing but cargo for that.
//!
//! # The rule
//! File A imports file B where code in A names something that B *defines*: in a `use` or in a path,
//! from `crate`, `super`, `self`, a child module or a name that was imported. Re-exports and globs
//! are followed to the file that defines the name, so that no import hides behind a `mod.rs`. This
//! does not count:
//! * `mod x;`, by which a module only says that its child is there;
//! * the re-export (`pub use`, `pub(crate) use`) of what a child defines, by which a module only
//!   passes a name on. Where the module's own code uses that name, it counts;
//! * what is compiled for tests only (`#[cfg(test)]`).
//!
//! So a module and its child are a circle only where the child uses what the module's own file
//! defines, and the module's own code uses the child. Both sides of a `#[cfg(feature)]` count. What
//! is not seen: methods and fields, which name no file.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// A crate's files, and what each imports: `imports[a][b]` has the names that `a` takes from `b`.
type Imports = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// One module, of a file of its own or inline.
#[derive(Default)]
struct Module {
    file: PathBuf,
    parent: Option<usize>,
    children: HashMap<String, Vec<usize>>,
    defined: HashSet<String>,
    uses: Vec<Use>,
    /// Paths in code.
    paths: BTreeSet<Vec<String>>,
}

#[derive(Clone)]
struct Use {
    path: Vec<String>,
    /// What the name is here; `None`: a glob.
    name: Option<String>,
    is_reexport: bool,
}

/// Reads the modules of one crate.
struct Reader<'a> {
    read: &'a dyn Fn(&Path) -> Option<String>,
    modules: Vec<Module>,
    current: usize,
}

/// Whether it is compiled for tests only.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.meta.require_list().map(|list| list.tokens.to_string()).unwrap_or_default();
        let words: Vec<_> = condition.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        attribute.path().is_ident("cfg") && (words == ["test"] || words.starts_with(&["all", "test"]))
    })
}

/// The file that `#[path = "…"]` names, also behind a `cfg_attr`.
fn named_path(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(meta) if meta.path.is_ident("path") => match &meta.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    })
}

impl Reader<'_> {
    fn module(&mut self, file: PathBuf, folder: PathBuf, items: &[Item], parent: Option<usize>) -> usize {
        let id = self.modules.len();
        self.modules.push(Module { file, parent, ..Module::default() });
        let outer = std::mem::replace(&mut self.current, id);
        for item in items {
            match item {
                Item::Mod(item) => self.child(item, &folder),
                _ => self.visit_item(item),
            }
        }
        self.current = outer;
        id
    }

    fn child(&mut self, item: &ItemMod, folder: &Path) {
        if is_for_tests(&item.attrs) {
            return;
        }
        let (name, parent) = (item.ident.to_string(), self.current);
        let child = if let Some((_, items)) = &item.content {
            self.module(self.modules[parent].file.clone(), folder.join(&name), items, Some(parent))
        } else {
            // `#[path]` is relative to the folder of the file, not of the module.
            let beside = self.modules[parent].file.parent().unwrap_or(Path::new("")).to_owned();
            let places = match named_path(&item.attrs) {
                Some(path) => vec![beside.join(path)],
                None => vec![folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")],
            };
            let found = places.iter().find_map(|place| Some((place.clone(), (self.read)(place)?)));
            let (file, source) = found.unwrap_or_else(|| panic!("no file for `mod {name}` in {places:?}"));
            let source = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if is_for_tests(&source.attrs) {
                return;
            }
            self.module(file, folder.join(&name), &source.items, Some(parent))
        };
        self.modules[parent].children.entry(name).or_default().push(child);
    }

    fn flatten(&mut self, tree: &UseTree, path: &[String], is_reexport: bool) {
        let with = |name: &syn::Ident| [path, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(tree) => self.flatten(&tree.tree, &with(&tree.ident), is_reexport),
            UseTree::Group(tree) => tree.items.iter().for_each(|tree| self.flatten(tree, path, is_reexport)),
            UseTree::Glob(_) => self.add_use(path.to_vec(), None, is_reexport),
            UseTree::Name(tree) if tree.ident == "self" => {
                self.add_use(path.to_vec(), path.last().cloned(), is_reexport);
            }
            UseTree::Name(tree) => self.add_use(with(&tree.ident), Some(tree.ident.to_string()), is_reexport),
            UseTree::Rename(tree) if tree.ident == "self" => {
                self.add_use(path.to_vec(), Some(tree.rename.to_string()), is_reexport);
            }
            UseTree::Rename(tree) => self.add_use(with(&tree.ident), Some(tree.rename.to_string()), is_reexport),
        }
    }

    fn add_use(&mut self, path: Vec<String>, name: Option<String>, is_reexport: bool) {
        self.modules[self.current].uses.push(Use { path, name, is_reexport });
    }

    /// Finds paths where only tokens are known: in the arguments of macros.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Vec::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    // A name behind no `::` begins another path; the one behind a `.` is a method
                    // or field, found nowhere.
                    if colons != 2 {
                        self.add_path(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.add_path(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.add_path(path);
    }

    fn add_path(&mut self, path: Vec<String>) {
        // A keyword alone names no module: `self` is a value, `crate` an option of the macros.
        if !matches!(path.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), [] | ["crate" | "self" | "super"])
        {
            self.modules[self.current].paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = match item {
            Item::Const(item) => (&item.attrs, Some(&item.ident)),
            Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            Item::Impl(item) => (&item.attrs, None),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
            Item::Static(item) => (&item.attrs, Some(&item.ident)),
            Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            Item::Type(item) => (&item.attrs, Some(&item.ident)),
            Item::Union(item) => (&item.attrs, Some(&item.ident)),
            Item::Use(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if is_for_tests(attributes) {
            return;
        }
        if let Some(name) = name {
            self.modules[self.current].defined.insert(name.to_string());
        }
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            self.flatten(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.add_path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast Macro) {
        self.visit_path(&mac.path);
        self.tokens(mac.tokens.clone());
    }

    /// `pub(in crate::x)` takes nothing from there.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// The files in which what a path names is defined.
struct Resolver<'a> {
    modules: &'a [Module],
    /// What is being looked up: re-exports may go round in a circle, too.
    seen: HashSet<(usize, String)>,
}

impl Resolver<'_> {
    /// From a `use` or a path in the code of this module. Of other crates' names nothing is found.
    fn resolve(&mut self, module: usize, path: &[String]) -> BTreeSet<usize> {
        let Some((first, rest)) = path.split_first() else { return BTreeSet::from([module]) };
        match first.as_str() {
            "crate" => self.within(0, rest),
            "self" => self.within(module, rest),
            "super" => {
                let mut ancestor = self.modules[module].parent;
                let mut rest = rest;
                while let (Some(at), Some((first, others))) = (ancestor, rest.split_first())
                    && first == "super"
                {
                    (ancestor, rest) = (self.modules[at].parent, others);
                }
                ancestor.map(|at| self.within(at, rest)).unwrap_or_default()
            }
            _ => self.lookup(module, first, rest).unwrap_or_default(),
        }
    }

    /// Below this module. A name that is not found there is taken to be its own.
    fn within(&mut self, module: usize, path: &[String]) -> BTreeSet<usize> {
        match path.split_first() {
            None => BTreeSet::from([module]),
            Some((first, rest)) => self.lookup(module, first, rest).unwrap_or(BTreeSet::from([module])),
        }
    }

    fn lookup(&mut self, module: usize, name: &str, rest: &[String]) -> Option<BTreeSet<usize>> {
        let modules = self.modules;
        let key = (module, name.to_owned());
        if !self.seen.insert(key.clone()) {
            return None;
        }
        let this = &modules[module];
        let mut found = BTreeSet::new();
        for &child in this.children.get(name).into_iter().flatten() {
            found.extend(self.within(child, rest));
        }
        for import in this.uses.iter().filter(|import| import.name.as_deref() == Some(name)) {
            found.extend(self.resolve(module, &[&import.path, rest].concat()));
        }
        if found.is_empty() && this.defined.contains(name) {
            found.insert(module);
        }
        if found.is_empty() {
            for import in this.uses.iter().filter(|import| import.name.is_none()) {
                for at in self.resolve(module, &import.path) {
                    found.extend(self.lookup(at, name, rest).unwrap_or_default());
                }
            }
        }
        self.seen.remove(&key);
        (!found.is_empty()).then_some(found)
    }
}

/// What each file of the crate with this root imports.
fn imports(root: &str, read: &dyn Fn(&Path) -> Option<String>) -> Imports {
    let root = Path::new(root);
    let folder = root.parent().unwrap_or(Path::new("")).to_owned();
    let source = read(root).unwrap_or_else(|| panic!("no {}", root.display()));
    let source = syn::parse_file(&source).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut reader = Reader { read, modules: Vec::new(), current: 0 };
    reader.module(root.to_owned(), folder, &source.items, None);
    let modules = &reader.modules;

    let is_below = |mut module: usize, file: &Path| loop {
        match modules[module].parent {
            Some(parent) if modules[parent].file == file => return true,
            Some(parent) => module = parent,
            None => return false,
        }
    };
    let mut imports = Imports::new();
    for (id, module) in modules.iter().enumerate() {
        let of_file = imports.entry(module.file.display().to_string()).or_default();
        let uses = module.uses.iter().map(|import| (&import.path, import.is_reexport));
        for (path, is_reexport) in uses.chain(module.paths.iter().map(|path| (path, false))) {
            for target in (Resolver { modules, seen: HashSet::new() }).resolve(id, path) {
                let file = &modules[target].file;
                if *file != module.file && !(is_reexport && is_below(target, &module.file)) {
                    let name = path.last().cloned().unwrap_or_default();
                    of_file.entry(file.display().to_string()).or_default().insert(name);
                }
            }
        }
    }
    imports
}

/// The files that a file imports, those that they import, and so on.
fn reached<'a>(imports: &'a Imports, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        let others = imports.get(file).into_iter().flat_map(|others| others.keys());
        next.extend(others.map(String::as_str).filter(|other| reached.insert(*other)));
    }
    reached
}

/// The files that import each other in circles: the strongly connected components of more than one.
fn circles(imports: &Imports) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<_, _> = imports.keys().map(|file| (file.as_str(), reached(imports, file))).collect();
    let with = |file: &str| reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect();
    reached.keys().map(|file| with(file)).filter(|circle: &Vec<&str>| circle.len() > 1).collect()
}

/// What is wrong: each circle, with what ties it.
fn complaints(imports: &Imports) -> Vec<String> {
    let complaint = |circle: &Vec<&str>| {
        let mut text = format!("{} files import each other in a circle:", circle.len());
        for (file, others) in imports.iter().filter(|(file, _)| circle.contains(&file.as_str())) {
            for (other, names) in others.iter().filter(|(other, _)| circle.contains(&other.as_str())) {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                text += &format!("\n  {file} -> {other}: {}", names.join(", "));
            }
        }
        text
    };
    circles(imports).iter().map(complaint).collect()
}

#[test]
fn no_two_files_of_a_crate_import_each_other_in_a_circle() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let read = |path: &Path| std::fs::read_to_string(house.join(path)).ok();
    let mut all = imports("macros/src/lib.rs", &read);
    all.extend(imports("runtime/src/lib.rs", &read));
    let complaints = complaints(&all);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The circles of a crate of these files.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let read = |path: &Path| files.iter().find(|(file, _)| Path::new(file) == path).map(|(_, text)| (*text).to_owned());
    let imports = imports("lib.rs", &read);
    circles(&imports).into_iter().map(|circle| circle.into_iter().map(str::to_owned).collect()).collect()
}

/// Whether `a.rs` and `b.rs` are a circle, where each says this.
fn is_circle(a: &str, b: &str) -> bool {
    match circles_of(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b)]).as_slice() {
        [] => false,
        circles => circles == [["a.rs", "b.rs"]] || panic!("{circles:?}"),
    }
}

#[test]
fn an_import_is_found_in_whatever_form() {
    let a = "use crate::b::B; pub struct A;";
    for b in [
        "use crate::a::A; pub struct B;",
        "use super::a::A; pub struct B;",
        "use crate::{a::{A as Renamed}}; pub struct B;",
        "use crate::a; pub struct B(a::A);",
        "use crate::a::{self}; pub struct B(a::A);",
        "use super::a::*; pub struct B;",
        "pub use crate::a::A; pub struct B;",
        "pub struct B(crate::a::A);",
        "pub struct B; fn f() { let _ = super::a::A; }",
        "pub struct B; fn f() { use crate::a::A; }",
        "pub struct B; fn f() { vec![crate::a::A]; }",
        "pub struct B; mod inner { use super::super::a::A; }",
        "pub struct B; #[cfg(feature = \"x\")] mod inner { use crate::a::A; }",
    ] {
        assert!(is_circle(a, b), "{b}");
    }
}

#[test]
fn what_is_no_import_is_not_taken_for_one() {
    let a = "use crate::b::B; pub struct A;";
    for b in [
        "pub struct B; // use crate::a::A;",
        "pub struct B; const S: &str = \"crate::a::A\";",
        "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
        "pub struct B; #[cfg(all(test, feature = \"x\"))] mod tests { use crate::a::A; }",
        "pub(in crate::a) struct B;",
        "pub struct B; use a::A;",
        "pub struct B; use ::a::A;",
    ] {
        assert!(!is_circle(a, b), "{b}");
    }
}

#[test]
fn a_re_export_is_followed_to_the_file_that_defines_the_name() {
    let lib = ("lib.rs", "mod a; mod b;");
    let a = ("a/mod.rs", "mod x; mod y; pub use self::x::X; pub use y::*;");
    let (x, y) = (("a/x.rs", "use crate::b::B; pub struct X;"), ("a/y.rs", "pub struct Y;"));
    assert_eq!(circles_of(&[lib, a, x, y, ("b.rs", "use crate::a::X; pub struct B;")]), [["a/x.rs", "b.rs"]]);
    assert!(circles_of(&[lib, a, x, y, ("b.rs", "use crate::a::Y; pub struct B;")]).is_empty());
}

#[test]
fn a_module_and_its_child_are_a_circle_where_each_uses_what_the_other_defines() {
    let lib = ("lib.rs", "mod a;");
    let child = ("a/x.rs", "use super::A; pub struct X;");
    let passes_on = ("a/mod.rs", "mod x; pub use self::x::X; pub struct A;");
    assert!(circles_of(&[lib, passes_on, child]).is_empty());
    let uses = ("a/mod.rs", "mod x; pub use self::x::X; pub struct A; fn f() -> X { X }");
    assert_eq!(circles_of(&[lib, uses, child]), [["a/mod.rs", "a/x.rs"]]);
    assert!(circles_of(&[lib, uses, ("a/x.rs", "pub struct X;")]).is_empty());
}

/// `a.rs` and `b.rs` import each other.
fn a_circle() -> Imports {
    imports("lib.rs", &|path| match path.to_str() {
        Some("lib.rs") => Some("mod a; mod b;".to_owned()),
        Some("a.rs") => Some("use crate::b::B; pub struct A;".to_owned()),
        Some("b.rs") => Some("use crate::a::A; pub struct B;".to_owned()),
        _ => None,
    })
}

#[test]
fn a_circle_is_printed_with_what_ties_it() {
    assert_eq!(
        complaints(&a_circle()),
        ["2 files import each other in a circle:\n  a.rs -> b.rs: B\n  b.rs -> a.rs: A"]
    );
}
