//! Every link of the README, of ARCHITECTURE.md, of CHANGELOG.md and of the guide leads to a file
//! that is there, and to a heading that is there. Every chapter of the guide is in its contents, and
//! its listings are doctests.
//!
//! `cargo test -p diesel-deferred-macros --test links`. It is a test here because neither mdBook
//! nor rustdoc looks at these links, and a new machine needs nothing but cargo for that.
//!
//! What is not looked at: links to the web, and what stands in code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The pages by their paths, from the repository's root.
type Pages = BTreeMap<PathBuf, String>;

/// Where the chapters are.
const GUIDE: &str = "guide/src";

/// The page with all code taken out of it: fenced blocks, and spans within a line or over several.
fn without_code(page: &str) -> String {
    let mut in_block = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    });
    let prose = lines.collect::<Vec<_>>().join("\n");
    // What stands between two backticks is code, so every second part is.
    prose.split('`').step_by(2).collect::<Vec<_>>().join("")
}

/// Where the links of a page lead.
fn links(page: &str) -> Vec<String> {
    let prose = without_code(page);
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let named = prose.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).map(|(_, target)| target);
    inline.chain(named).map(|target| target.trim().to_owned()).collect()
}

/// The anchor of each heading, as GitHub and mdBook make it. A second heading of the same words has
/// a number behind its anchor.
fn anchors(page: &str) -> BTreeSet<String> {
    let (mut in_block, mut anchors, mut times) = (false, BTreeSet::new(), BTreeMap::new());
    for line in page.lines() {
        in_block ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if in_block || title == line || !title.starts_with(' ') {
            continue;
        }
        let letters = title.trim().to_lowercase();
        let letters = letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = letters.map(|c| if c == ' ' { '-' } else { c }).collect();
        let number = times.entry(anchor.clone()).and_modify(|number| *number += 1).or_insert(0);
        anchors.insert(if *number == 0 { anchor } else { format!("{anchor}-{number}") });
    }
    anchors
}

/// The path without `.` and `..`. Both sides of a link are below the root.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// What is wrong with the links of these pages.
fn complaints(pages: &Pages, is_there: &dyn Fn(&Path) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, page) in pages {
        for link in links(page).iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(file, part)| (file, Some(part)));
            let target = match file {
                "" => path.clone(),
                file => plain(&path.parent().expect("a folder").join(file)),
            };
            let reason = if !is_there(&target) {
                "there is no such file"
            } else if path.starts_with(GUIDE) && !target.starts_with(GUIDE) {
                "it leads out of the book"
            } else if anchor.is_some_and(|anchor| !pages.get(&target).is_some_and(|to| anchors(to).contains(anchor))) {
                "there is no such heading"
            } else {
                continue;
            };
            complaints.push(format!("{}: {link}: {reason}", path.display()));
        }
    }
    complaints
}

/// All pages that are looked at.
fn pages(root: &Path) -> Pages {
    let chapters = fs::read_dir(root.join(GUIDE)).expect("the guide");
    let chapters = chapters.map(|entry| Path::new(GUIDE).join(entry.expect("a chapter").file_name()));
    let others = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from);
    let paths = chapters.chain(others).filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.map(|path| (path.clone(), fs::read_to_string(root.join(path)).expect("a page"))).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages(root());
    assert!(pages.len() > 10, "only {:?}", pages.keys());
    let complaints = complaints(&pages, &|path| root().join(path).exists());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_chapter_is_in_the_contents_of_the_guide() {
    let pages = pages(root());
    let summary = Path::new(GUIDE).join("SUMMARY.md");
    let listed: BTreeSet<_> = links(&pages[&summary]).iter().map(|link| Path::new(GUIDE).join(link)).collect();
    let chapters: BTreeSet<_> =
        pages.keys().filter(|path| path.starts_with(GUIDE) && **path != summary).cloned().collect();
    assert_eq!(listed, chapters);
}

#[test]
fn every_listing_of_the_guide_is_compiled() {
    let doctests = fs::read_to_string(root().join("runtime/src/guide.rs")).expect("the doctests");
    for (path, page) in pages(root()).iter().filter(|(path, _)| path.starts_with(GUIDE)) {
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(name == "SUMMARY.md" || doctests.contains(&format!("/{name}\";")), "{name} is not in guide.rs");
        let is_ignored = |line: &str| line.starts_with("```") && line.contains("ignore");
        assert!(!page.lines().any(is_ignored), "a listing of {name} is ignored");
    }
}

/// What is wrong where a chapter says this, beside another one with a heading.
fn complaints_about(chapter: &str) -> Vec<String> {
    let other = "# Other\n\n## `atomic!`, and more\n\n```text\n# no heading\n```\n".to_owned();
    let pages = Pages::from([("guide/src/a.md".into(), chapter.to_owned()), ("guide/src/b.md".into(), other)]);
    complaints(&pages, &|path| pages.contains_key(path) || path == Path::new("README.md"))
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    for (chapter, reason) in [
        ("[x](c.md)", "there is no such file"),
        ("[x\ny](../c.md)", "there is no such file"),
        ("| [`x`](c.md) |", "there is no such file"),
        ("[x]: c.md", "there is no such file"),
        ("[x](#here)", "there is no such heading"),
        ("[x](b.md#no-heading)", "there is no such heading"),
        ("[x](b.md#other-1)", "there is no such heading"),
        ("[x](../../README.md)", "it leads out of the book"),
    ] {
        let found = complaints_about(chapter);
        assert!(matches!(found.as_slice(), [one] if one.ends_with(reason)), "{chapter}: {found:?}");
    }
}

#[test]
fn a_link_that_leads_somewhere_is_not_complained_about() {
    for chapter in [
        "[x](b.md), [x](./b.md), [x](b.md#other), [x](b.md#atomic-and-more)",
        "## Here\n\n[x](#here)",
        "# Here\n\n## Here\n\n[x](#here-1)",
        "[x](https://diesel.rs/c.md#d)",
        "`[x](c.md)`, `a\n[x](c.md)`",
        "```rust\n// [x](c.md)\n```",
    ] {
        assert_eq!(complaints_about(chapter), [""; 0], "{chapter}");
    }
}
