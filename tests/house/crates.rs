//! Reads one crate: its files, its module tree, and the types that each file defines.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta, UseTree};

use crate::paths;

/// A module's path from the crate's root; the root's is empty.
pub(crate) type ModulePath = Vec<String>;

/// One module, in a file of its own or inline.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// Index of its file in [`Crate::files`].
    pub(crate) file: usize,
    /// Names that it defines: types, functions, constants, traits, macros.
    pub(crate) items: Vec<String>,
    /// Names that it brings into scope, and the paths that they stand for; public ones are re-exports.
    pub(crate) uses: BTreeMap<String, Import>,
    /// Paths of its glob imports.
    pub(crate) globs: Vec<Vec<String>>,
    /// Every other path that its code names.
    pub(crate) paths: Vec<Vec<String>>,
}

/// A name that a `use` brings into scope.
#[derive(Debug)]
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    /// Visible outside the module, so that it may be there for others only.
    pub(crate) exported: bool,
}

/// A type, and where it is defined.
#[derive(Debug)]
pub(crate) struct TypeDefinition {
    pub(crate) name: String,
    pub(crate) file: usize,
}

/// One compile target.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) modules: BTreeMap<ModulePath, Module>,
    pub(crate) types: Vec<TypeDefinition>,
}

/// Reads the crate with the root file `root`.
///
/// # Errors
/// When a file is no Rust, or a declared module has no file.
pub(crate) fn read(root: &Path, sources: &Sources) -> Result<Crate, String> {
    let mut found = Crate::default();
    let folder = root.parent().unwrap_or(Path::new("")).to_path_buf();
    Reader { sources, found: &mut found }.read_file(root, Vec::new(), &folder)?;
    Ok(found)
}

/// The text of every source file, by its path.
pub(crate) type Sources = BTreeMap<PathBuf, String>;

struct Reader<'a> {
    sources: &'a Sources,
    found: &'a mut Crate,
}

impl Reader<'_> {
    /// `folder` is where the files of the module's children are.
    fn read_file(&mut self, path: &Path, module: ModulePath, folder: &Path) -> Result<(), String> {
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = self.sources.get(path).ok_or_else(|| at(&"no such file"))?;
        let parsed = syn::parse_file(text).map_err(|error| at(&error))?;
        let file = self.found.files.len();
        self.found.files.push(path.to_path_buf());
        self.read_items(&parsed.items, module, file, folder)
    }

    fn read_items(
        &mut self,
        items: &[Item],
        module: ModulePath,
        file: usize,
        folder: &Path,
    ) -> Result<(), String> {
        self.found.modules.insert(module.clone(), Module { file, ..Module::default() });
        items.iter().try_for_each(|item| self.read_item(item, &module, file, folder))
    }

    fn read_item(
        &mut self,
        item: &Item,
        module: &ModulePath,
        file: usize,
        folder: &Path,
    ) -> Result<(), String> {
        if let Item::Mod(declared) = item {
            let name = declared.ident.to_string();
            let child: ModulePath = module.iter().cloned().chain([name.clone()]).collect();
            let below = folder.join(&name);
            return match &declared.content {
                Some((_, items)) => {
                    // An inline module belongs to the file that it stands in.
                    self.read_items(items, child, file, &below)
                }
                None => {
                    if let Some(path) = path_attribute(&declared.attrs) {
                        let path = beside(&self.found.files[file], &path);
                        // The files of its children are in its folder, whatever its name is.
                        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
                        return self.read_file(&path, child, &folder);
                    }
                    let path = [folder.join(format!("{name}.rs")), below.join("mod.rs")]
                        .into_iter()
                        .find(|path| self.sources.contains_key(path))
                        .ok_or_else(|| format!("{}: no file of module {name}", folder.display()))?;
                    self.read_file(&path, child, &below)
                }
            };
        }
        if let Some(name) = type_name(item) {
            self.found.types.push(TypeDefinition { name, file });
        }
        let Some(here) = self.found.modules.get_mut(module) else {
            return Ok(());
        };
        match item {
            Item::Use(one) => {
                let exported = !matches!(one.vis, syn::Visibility::Inherited);
                flatten(&one.tree, &mut Vec::new(), exported, here);
            }
            _ => {
                here.items.extend(item_name(item));
                paths::collect_paths(item, &mut here.paths);
            }
        }
        Ok(())
    }
}

/// The file that the path `relative` names in the file `from`.
fn beside(from: &Path, relative: &str) -> PathBuf {
    let mut path = from.parent().unwrap_or(Path::new("")).to_path_buf();
    for part in Path::new(relative).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            _ => path.push(part),
        }
    }
    path
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// The name of a type that `item` defines.
fn type_name(item: &Item) -> Option<String> {
    match item {
        Item::Struct(one) => Some(one.ident.to_string()),
        Item::Enum(one) => Some(one.ident.to_string()),
        Item::Trait(one) => Some(one.ident.to_string()),
        Item::Type(one) => Some(one.ident.to_string()),
        Item::Union(one) => Some(one.ident.to_string()),
        _ => None,
    }
}

/// The name that `item` defines, a type's or another's.
fn item_name(item: &Item) -> Option<String> {
    type_name(item).or_else(|| match item {
        Item::Fn(one) => Some(one.sig.ident.to_string()),
        Item::Const(one) => Some(one.ident.to_string()),
        Item::Static(one) => Some(one.ident.to_string()),
        Item::Macro(one) => one.ident.as_ref().map(ToString::to_string),
        _ => None,
    })
}

fn flatten(tree: &UseTree, before: &mut Vec<String>, exported: bool, into: &mut Module) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            flatten(&path.tree, before, exported, into);
            before.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, exported, into);
            }
        }
        UseTree::Glob(_) => into.globs.push(before.clone()),
        UseTree::Name(name) => {
            let ident = name.ident.to_string();
            let mut path = before.clone();
            let local = if ident == "self" {
                before.last().cloned().unwrap_or_default()
            } else {
                path.push(ident.clone());
                ident
            };
            into.uses.insert(local, Import { path, exported });
        }
        UseTree::Rename(name) => {
            let mut path = before.clone();
            if name.ident != "self" {
                path.push(name.ident.to_string());
            }
            into.uses.insert(name.rename.to_string(), Import { path, exported });
        }
    }
}
