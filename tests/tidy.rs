//! The house rules that a program can check: arrows between the rooms, names of files, length
//! of files and functions. Tests are not counted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const FORBIDDEN_NAMES: [&str; 6] =
    ["util.rs", "utils.rs", "common.rs", "helpers.rs", "misc.rs", "types.rs"];

/// `(file, function, reason)`: functions that may be longer than one screen. An empty function
/// name is the whole file.
const EXCEPTIONS: [(&str, &str, &str); 0] = [];

/// Which crates of ours a crate may name.
const CRATES: [(&str, &[&str]); 5] = [
    ("discovery", &[]),
    ("router", &["portolan-discovery"]),
    ("dns", &["portolan-discovery"]),
    ("agent", &["portolan-discovery"]),
    (".", &["portolan-agent", "portolan-discovery", "portolan-dns", "portolan-router"]),
];

/// Which modules of the root package a module may name with `crate::`.
const MODULES: [(&str, &[&str]); 10] = [
    ("clock", &[]),
    ("config", &[]),
    ("handover", &[]),
    ("live", &[]),
    ("scheduler", &[]),
    ("controller", &["clock", "scheduler"]),
    ("api", &["clock", "controller", "live"]),
    ("mesh", &["api", "clock", "config", "controller", "handover", "live"]),
    ("whoami", &[]),
    ("cli", &["api", "clock", "config", "controller", "handover", "live", "mesh", "whoami"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

/// Code that ships: not tests, benches or examples.
fn is_shipped(path: &Path) -> bool {
    let path = path.strip_prefix(root()).unwrap();
    let is_test_part = |part: &str| matches!(part, "tests" | "benches" | "examples" | "tests.rs");
    !path.components().any(|part| is_test_part(&part.as_os_str().to_string_lossy()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn no_file_is_a_dumping_ground() {
    let bad: Vec<_> = all_sources()
        .into_iter()
        .filter(|path| {
            FORBIDDEN_NAMES.iter().any(|name| path.ends_with(name)) || path.ends_with("mod.rs")
        })
        .map(|path| shown(&path))
        .collect();
    assert!(bad.is_empty(), "name these after what they own: {bad:?}");
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    fs::read_to_string(&path).unwrap().parse().unwrap()
}

#[test]
fn manifests_draw_no_forbidden_arrow() {
    for (folder, allowed) in CRATES {
        let manifest = manifest(folder);
        let dependencies = manifest["dependencies"].as_table().unwrap();
        for name in dependencies.keys().filter(|name| name.starts_with("portolan-")) {
            assert!(allowed.contains(&name.as_str()), "{folder} must not depend on {name}");
        }
    }
    for folder in ["router", "dns"] {
        let manifest = manifest(folder);
        let discovery = &manifest["dependencies"]["portolan-discovery"];
        assert!(discovery.get("features").is_none(), "a build of {folder} must not pull a store");
    }
}

/// Collects the paths that shipped code names, without the tests inside it.
#[derive(Default)]
struct Paths {
    found: Vec<(usize, Vec<String>)>,
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().segments.last().is_some_and(|last| last.ident == "test")
            || (attribute.path().is_ident("cfg")
                && attribute.meta.require_list().is_ok_and(|list| {
                    let text = list.tokens.to_string();
                    text == "test" || text.contains("loom") || text.contains("conformance")
                }))
    })
}

fn use_paths(tree: &syn::UseTree, before: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = before.to_vec();
    match tree {
        syn::UseTree::Path(part) => {
            path.push(part.ident.to_string());
            use_paths(&part.tree, &path, found);
        }
        syn::UseTree::Name(name) => {
            path.push(name.ident.to_string());
            found.push(path);
        }
        syn::UseTree::Rename(name) => {
            path.push(name.ident.to_string());
            found.push(path);
        }
        syn::UseTree::Glob(_) => found.push(path),
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|item| use_paths(item, before, found));
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test_only(&item.attrs) {
            return;
        }
        let mut found = Vec::new();
        use_paths(&item.tree, &[], &mut found);
        let line = item.span().start().line;
        self.found.extend(found.into_iter().map(|path| (line, path)));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.found.push((path.span().start().line, parts));
        visit::visit_path(self, path);
    }
}

fn paths_of(path: &Path) -> Vec<(usize, Vec<String>)> {
    let text = fs::read_to_string(path).unwrap();
    let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", shown(path)));
    let mut paths = Paths::default();
    paths.visit_file(&file);
    paths.found
}

#[test]
fn router_and_resolver_see_only_model_and_snapshot() {
    for path in all_sources().into_iter().filter(|path| is_shipped(path)) {
        let place = shown(&path);
        if !place.starts_with("router/") && !place.starts_with("dns/") {
            continue;
        }
        for (line, parts) in paths_of(&path) {
            if parts.first().is_some_and(|first| first == "portolan_discovery") {
                let second = parts.get(1).map(String::as_str);
                assert!(
                    matches!(second, Some("model" | "snapshot")),
                    "{place}:{line} names {}",
                    parts.join("::")
                );
            }
        }
    }
}

#[test]
fn rooms_of_the_root_package_name_only_those_below() {
    let mut checked = 0;
    for (module, allowed) in MODULES {
        let files = all_sources().into_iter().filter(|path| {
            let place = shown(path);
            is_shipped(path)
                && (place == format!("src/{module}.rs")
                    || place.starts_with(&format!("src/{module}/")))
        });
        for path in files {
            checked += 1;
            for (line, parts) in paths_of(&path) {
                let [first, second, ..] = parts.as_slice() else { continue };
                let is_room = MODULES.iter().any(|(name, _)| name == second);
                if first == "crate" && is_room && second != module {
                    assert!(
                        allowed.contains(&second.as_str()),
                        "{}:{line}: {module} must not name {second}",
                        shown(&path)
                    );
                }
            }
        }
    }
    assert!(checked > 8, "only {checked} files were found in the rooms");
}

/// Finds functions that do not fit one screen.
struct Functions<'a> {
    place: &'a str,
    long: Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, name: &syn::Ident, attributes: &[syn::Attribute], body: proc_macro2::Span) {
        let lines = body.end().line - body.start().line + 1;
        let is_excepted =
            EXCEPTIONS.iter().any(|(file, function, _)| *file == self.place && name == function);
        if lines > FUNCTION_LINES_MAX && !is_test_only(attributes) && !is_excepted {
            self.long.push(format!("{}:{}: {name} has {lines}", self.place, body.start().line));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.sig.ident, &item.attrs, item.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.sig.ident, &item.attrs, item.span());
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_fit_one_screen_and_files_stay_small() {
    let mut long = Vec::new();
    for path in all_sources().into_iter().filter(|path| is_shipped(path)) {
        let place = shown(&path);
        let text = fs::read_to_string(&path).unwrap();
        let file = syn::parse_file(&text).unwrap();
        let mut functions = Functions { place: &place, long: Vec::new() };
        functions.visit_file(&file);
        long.append(&mut functions.long);
        let tests: usize = file
            .items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Mod(item) if is_test_only(&item.attrs) => {
                    Some(item.span().end().line - item.span().start().line + 1)
                }
                _ => None,
            })
            .sum();
        let lines = text.lines().count() - tests;
        let is_excepted =
            EXCEPTIONS.iter().any(|(file, function, _)| *file == place && function.is_empty());
        if lines > FILE_LINES_MAX && !is_excepted {
            long.push(format!("{place} has {lines} lines"));
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn every_exception_is_needed_and_says_why() {
    for (file, _, reason) in EXCEPTIONS {
        assert!(root().join(file).exists(), "{file} is gone; so goes its exception");
        assert!(reason.len() > 20, "say why {file} may be longer");
    }
}
