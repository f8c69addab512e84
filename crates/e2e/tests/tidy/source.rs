//! The source files of a crate, parsed: which modules each uses, and what its comments say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A module in a file of its own.
pub(crate) struct Module {
    /// `outbound::poster`; empty for `lib.rs` and `main.rs`.
    pub(crate) path: String,
    pub(crate) file: PathBuf,
    pub(crate) text: String,
    /// Names that the module re-exports, each with the path it has them from.
    re_exports: BTreeMap<String, Vec<String>>,
    /// `crate::x::Y` for each name that the file can see because of a `use` of it.
    pub(crate) mentions: BTreeSet<String>,
    pub(crate) docs: Vec<Doc>,
    /// Name and number of fields of each struct.
    pub(crate) structs: Vec<(String, usize)>,
    /// Lines of code and comments, without tests.
    pub(crate) lines: Lines,
    /// Modules of this one that are compiled only for tests and have files of their own.
    test_modules: Vec<String>,
}

/// Lines of a module by what they hold; tests and blank lines are left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) code: usize,
    /// Lines of `///` and `//!`.
    pub(crate) docs: usize,
    /// Lines of `//` inside of functions.
    pub(crate) why: usize,
}

impl Lines {
    /// Counts the lines of `text`. `functions` and `tests` are the line numbers, from 1, that
    /// functions and items for tests take up.
    fn count(
        text: &str,
        functions: &[RangeInclusive<usize>],
        tests: &[RangeInclusive<usize>],
    ) -> Self {
        let is_in = |ranges: &[RangeInclusive<usize>], number| {
            ranges.iter().any(|range| range.contains(&number))
        };
        let mut lines = Self::default();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || is_in(tests, number) {
                continue;
            }
            if line.starts_with("///") || line.starts_with("//!") {
                lines.docs += 1;
            } else if line.starts_with("//") {
                lines.why += usize::from(is_in(functions, number));
            } else {
                lines.code += 1;
            }
        }
        lines
    }
}

/// The documentation comment of one item.
pub(crate) struct Doc {
    pub(crate) text: String,
}

impl Doc {
    /// Code blocks that are compiled by `cargo test --doc`.
    pub(crate) fn examples(&self) -> usize {
        let fences = self.text.lines().map(str::trim_start);
        let openers = fences
            .filter(|line| line.starts_with("```"))
            .step_by(2)
            .map(|line| line.trim_start_matches('`').trim());
        openers
            .filter(|language| matches!(*language, "" | "rust" | "no_run" | "rust,no_run"))
            .count()
    }
}

impl Module {
    pub(crate) fn is_face(&self) -> bool {
        let name = self.file.file_name().and_then(|it| it.to_str());
        matches!(name, Some("lib.rs" | "mod.rs"))
    }

    /// The file's part that is not its tests.
    pub(crate) fn without_tests(&self) -> &str {
        without_tests(&self.text)
    }
}

/// The part of a file's text that comes before `mod tests`.
pub(crate) fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

/// All modules of the crate at `crates/{name}`, by path. Each crate is parsed once.
pub(crate) fn modules(name: &'static str) -> &'static BTreeMap<String, Module> {
    type Parsed = BTreeMap<&'static str, &'static BTreeMap<String, Module>>;
    static PARSED: Mutex<Parsed> = Mutex::new(BTreeMap::new());
    let mut parsed = PARSED.lock().unwrap();
    parsed
        .entry(name)
        .or_insert_with(|| Box::leak(Box::new(parse_all(name))))
}

fn parse_all(name: &str) -> BTreeMap<String, Module> {
    let source = root().join("crates").join(name).join("src");
    let mut files = Vec::new();
    collect(&source, "rs", &mut files);
    assert!(!files.is_empty());
    let parsed = files.into_iter().map(|file| parse(&source, file));
    let mut modules: BTreeMap<_, _> = parsed.map(|module| (module.path.clone(), module)).collect();
    // A module does not say itself that it is for tests: the one that declares it does.
    let for_tests: Vec<_> = modules
        .values()
        .flat_map(|module| module.test_modules.clone())
        .collect();
    for path in for_tests {
        if let Some(module) = modules.get_mut(&path) {
            module.lines = Lines::default();
        }
    }
    modules
}

fn parse(source: &Path, file: PathBuf) -> Module {
    let relative = file.strip_prefix(source).unwrap().with_extension("");
    let mut parts: Vec<_> = relative.iter().map(|part| part.to_str().unwrap()).collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    let text = fs::read_to_string(&file).unwrap();
    let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let mut re_exports = BTreeMap::new();
    for item in &syntax.items {
        if let syn::Item::Use(item) = item {
            gather(&item.tree, &mut Vec::new(), &mut re_exports);
        }
    }
    let mut reader = Reader {
        place: parts.iter().map(|part| (*part).to_owned()).collect(),
        mentions: BTreeSet::new(),
        docs: Vec::new(),
        structs: Vec::new(),
        functions: Vec::new(),
        tests: Vec::new(),
        test_modules: Vec::new(),
    };
    reader.visit_file(&syntax);
    let Reader {
        mentions,
        docs,
        structs,
        functions,
        tests,
        test_modules,
        ..
    } = reader;
    let lines = Lines::count(&text, &functions, &tests);
    Module {
        path: parts.join("::"),
        file,
        text,
        re_exports,
        mentions,
        docs,
        structs,
        lines,
        test_modules,
    }
}

/// Files below `folder` that end in `extension`, sorted by path.
pub(crate) fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|it| it == extension) {
            files.push(path);
        }
    }
}

struct Reader {
    /// The path of the module that is being read.
    place: Vec<String>,
    mentions: BTreeSet<String>,
    docs: Vec<Doc>,
    structs: Vec<(String, usize)>,
    /// Lines, from 1, that functions take up.
    functions: Vec<RangeInclusive<usize>>,
    /// Lines, from 1, that items for tests take up.
    tests: Vec<RangeInclusive<usize>>,
    test_modules: Vec<String>,
}

fn lines_of(item: &impl Spanned) -> RangeInclusive<usize> {
    let span = item.span();
    span.start().line..=span.end().line
}

impl Reader {
    /// Remembers what a path that begins with `crate`, `super` or `self` names.
    fn mention(&mut self, segments: &[String]) {
        let mut place = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.place.clone(),
            _ => {
                if !segments.is_empty() {
                    self.mentions.insert(format!("::{}", segments.join("::")));
                }
                return;
            }
        };
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(place.pop()),
                "*" => break,
                name => place.push(name.to_owned()),
            }
        }
        self.mentions.insert(place.join("::"));
    }

    fn use_tree(&mut self, before: &mut Vec<String>, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.use_tree(before, &path.tree);
                before.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(before, tree);
                }
            }
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                let names: Vec<_> = before.iter().cloned().chain([name]).collect();
                self.mention(&names);
            }
            syn::UseTree::Rename(rename) => {
                let name = rename.ident.to_string();
                let names: Vec<_> = before.iter().cloned().chain([name]).collect();
                self.mention(&names);
            }
            syn::UseTree::Glob(_) => {
                let names: Vec<_> = before.iter().cloned().chain(["*".to_owned()]).collect();
                self.mention(&names);
            }
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        attribute.path().is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(it) => &it.attrs,
        syn::Item::Enum(it) => &it.attrs,
        syn::Item::Fn(it) => &it.attrs,
        syn::Item::Impl(it) => &it.attrs,
        syn::Item::Macro(it) => &it.attrs,
        syn::Item::Mod(it) => &it.attrs,
        syn::Item::Static(it) => &it.attrs,
        syn::Item::Struct(it) => &it.attrs,
        syn::Item::Trait(it) => &it.attrs,
        syn::Item::Type(it) => &it.attrs,
        syn::Item::Use(it) => &it.attrs,
        _ => &[],
    }
}

fn doc_of(attributes: &[syn::Attribute]) -> Option<Doc> {
    let lines: Vec<_> = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(syn::MetaNameValue {
                value:
                    syn::Expr::Lit(syn::ExprLit {
                        lit: syn::Lit::Str(text),
                        ..
                    }),
                ..
            }) => Some(text.value()),
            _ => None,
        })
        .collect();
    (!lines.is_empty()).then(|| Doc {
        text: lines.join("\n"),
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast syn::File) {
        self.docs.extend(doc_of(&file.attrs));
        visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = attributes_of(item);
        if is_for_tests(attributes) {
            self.tests.push(lines_of(item));
            if let syn::Item::Mod(module) = item {
                let name = module.ident.to_string();
                let path = self.place.iter().cloned().chain([name]);
                self.test_modules.push(path.collect::<Vec<_>>().join("::"));
            }
            return;
        }
        self.docs.extend(doc_of(attributes));
        if let syn::Item::Fn(function) = item {
            self.functions.push(lines_of(&function.block));
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if is_for_tests(&function.attrs) {
            self.tests.push(lines_of(function));
            return;
        }
        self.docs.extend(doc_of(&function.attrs));
        self.functions.push(lines_of(&function.block));
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.docs.extend(doc_of(&function.attrs));
        self.functions
            .extend(function.default.as_ref().map(lines_of));
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.docs.extend(doc_of(&field.attrs));
        visit::visit_field(self, field);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.docs.extend(doc_of(&variant.attrs));
        visit::visit_variant(self, variant);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.structs
            .push((item.ident.to_string(), item.fields.len()));
        visit::visit_item_struct(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.content.is_some() {
            self.place.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.place.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        // One segment is a name of this module, or the `crate` of `pub(crate)`.
        if segments.len() > 1 {
            self.mention(&segments);
        }
        visit::visit_path(self, path);
    }
}

/// The modules that `module` uses, found behind the faces that re-export them.
pub(crate) fn uses(modules: &BTreeMap<String, Module>, module: &Module) -> BTreeSet<String> {
    let mentions = module.mentions.iter();
    let own = mentions.filter(|mention| !mention.starts_with("::"));
    own.filter_map(|mention| resolve(modules, mention, 0))
        .filter(|used| *used != module.path)
        .collect()
}

/// The module in which the item at `path` is defined.
fn resolve(modules: &BTreeMap<String, Module>, path: &str, depth: usize) -> Option<String> {
    let segments: Vec<_> = path.split("::").filter(|it| !it.is_empty()).collect();
    let known = (0..=segments.len()).rev().find_map(|count| {
        let path = segments[..count].join("::");
        modules.get(&path).map(|module| (count, module))
    });
    let (count, module) = known?;
    let Some(name) = segments.get(count) else {
        return Some(module.path.clone());
    };
    if !module.is_face() || depth > 4 {
        return Some(module.path.clone());
    }
    let target = re_exported(module, name);
    target.map_or(Some(module.path.clone()), |target| {
        resolve(modules, &target, depth + 1)
    })
}

/// The path from which the face `module` takes `name`.
fn re_exported(module: &Module, name: &str) -> Option<String> {
    let found = module.re_exports.get(name)?;
    let found = match found.first().map(String::as_str) {
        Some("crate" | "self") => &found[1..],
        _ => &found[..],
    };
    let own = module.path.split("::").filter(|it| !it.is_empty());
    let found = found.iter().map(String::as_str);
    Some(own.chain(found).collect::<Vec<_>>().join("::"))
}

/// Adds each name that `tree` brings in, with its path; `before` leads to `tree`.
fn gather(
    tree: &syn::UseTree,
    before: &mut Vec<String>,
    found: &mut BTreeMap<String, Vec<String>>,
) {
    let path_to = |before: &[String], name: &syn::Ident| {
        before.iter().cloned().chain([name.to_string()]).collect()
    };
    match tree {
        syn::UseTree::Path(path) => {
            before.push(path.ident.to_string());
            gather(&path.tree, before, found);
            before.pop();
        }
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                gather(tree, before, found);
            }
        }
        syn::UseTree::Name(it) => {
            found.insert(it.ident.to_string(), path_to(before, &it.ident));
        }
        syn::UseTree::Rename(it) => {
            found.insert(it.rename.to_string(), path_to(before, &it.ident));
        }
        syn::UseTree::Glob(_) => {}
    }
}
