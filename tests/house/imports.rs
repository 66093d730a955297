//! Finds which file uses what another file defines, and the circles in that.
//!
//! A `mod` declaration is no import, and neither is a re-export that the file itself does not use.
//! Where a name was re-exported, the import is of the file that defines it.

use std::collections::{BTreeMap, BTreeSet};

use crate::crates::{Crate, Module, ModulePath};

/// More steps than any chain of re-exports has; ends the search in one that leads back to itself.
const MAX_REEXPORTS: usize = 16;

/// From each file to the files that define the items it uses, with the names of these items.
pub(crate) type Edges = BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>>;

/// Groups of files, each of at least two, that import each other: the edges within each group.
pub(crate) fn circles(found: &Crate) -> Vec<Edges> {
    let edges = edges(found);
    let reach: BTreeMap<usize, BTreeSet<usize>> =
        edges.keys().map(|&from| (from, reachable(&edges, from))).collect();
    let mut circles: BTreeSet<BTreeSet<usize>> = BTreeSet::new();
    for (from, to) in &reach {
        if to.contains(from) {
            let with = to.iter().filter(|one| reach.get(one).is_some_and(|back| back.contains(from)));
            circles.insert(with.copied().collect());
        }
    }
    circles.iter().map(|circle| within(&edges, circle)).collect()
}

fn within(edges: &Edges, circle: &BTreeSet<usize>) -> Edges {
    let mut inner = edges.clone();
    inner.retain(|from, _| circle.contains(from));
    for to in inner.values_mut() {
        to.retain(|to, _| circle.contains(to));
    }
    inner
}

fn reachable(edges: &Edges, from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut left = vec![from];
    while let Some(at) = left.pop() {
        for &next in edges.get(&at).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(next) {
                left.push(next);
            }
        }
    }
    seen
}

fn edges(found: &Crate) -> Edges {
    let mut edges = Edges::new();
    for (path, module) in &found.modules {
        let mut used: Vec<Vec<String>> = module.paths.clone();
        let imports = module.uses.iter().filter(|(name, import)| !import.exported || names(module, name));
        used.extend(imports.map(|(_, import)| import.path.clone()));
        // Of a glob only the names count that the code uses.
        for glob in &module.globs {
            let foreign = module
                .paths
                .iter()
                .filter_map(|named| named.first())
                .filter(|name| !module.items.contains(name) && !module.uses.contains_key(*name));
            used.extend(foreign.map(|name| glob.iter().chain([name]).cloned().collect()));
        }
        for named in used {
            if let Some(to) = resolve(found, path, &named, 0)
                && to != module.file
            {
                let names = edges.entry(module.file).or_default().entry(to).or_default();
                names.extend(named.last().cloned());
            }
        }
    }
    edges
}

fn names(module: &Module, name: &str) -> bool {
    module.paths.iter().any(|path| path.first().is_some_and(|first| first == name))
}

/// The file that defines what `named` stands for in module `from`; `None`: another crate's, a local
/// name, or a module as such.
fn resolve(found: &Crate, from: &ModulePath, named: &[String], steps: usize) -> Option<usize> {
    if steps > MAX_REEXPORTS {
        return None;
    }
    let mut at = from.clone();
    let mut rest = named;
    while let [first, after @ ..] = rest {
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => drop(at.pop()?),
            _ => break,
        }
        rest = after;
    }
    loop {
        let [name, after @ ..] = rest else {
            return None;
        };
        let module = found.modules.get(&at)?;
        let child: ModulePath = at.iter().cloned().chain([name.clone()]).collect();
        if found.modules.contains_key(&child) {
            (at, rest) = (child, after);
            continue;
        }
        if module.items.contains(name) {
            return Some(module.file);
        }
        if let Some(import) = module.uses.get(name) {
            let target: Vec<String> = import.path.iter().chain(after).cloned().collect();
            // `use a::a` within `a` must not lead back to itself.
            return if target == rest { None } else { resolve(found, &at, &target, steps + 1) };
        }
        return module.globs.iter().find_map(|glob| {
            let target: Vec<String> = glob.iter().chain(rest).cloned().collect();
            resolve(found, &at, &target, steps + 1)
        });
    }
}
