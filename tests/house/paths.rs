//! Finds the paths that the code of an item names.

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Item, Macro, Path,
    visit::{self, Visit},
};

/// Adds every path that the code of `item` names, also within macro calls.
pub(crate) fn collect_paths(item: &Item, into: &mut Vec<Vec<String>>) {
    struct Collector<'a>(&'a mut Vec<Vec<String>>);
    impl<'ast> Visit<'ast> for Collector<'_> {
        fn visit_path(&mut self, path: &'ast Path) {
            self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
            visit::visit_path(self, path);
        }

        fn visit_macro(&mut self, call: &'ast Macro) {
            collect_from_tokens(call.tokens.clone(), self.0);
            visit::visit_macro(self, call);
        }
    }
    Collector(into).visit_item(item);
}

/// A macro's arguments are tokens: identifiers that are joined by `::` are taken for a path.
fn collect_from_tokens(tokens: TokenStream, into: &mut Vec<Vec<String>>) {
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 && !path.is_empty() {
                    into.push(std::mem::take(&mut path));
                }
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            other => {
                if !path.is_empty() {
                    into.push(std::mem::take(&mut path));
                }
                colons = 0;
                if let TokenTree::Group(group) = other {
                    collect_from_tokens(group.stream(), into);
                }
            }
        }
    }
    if !path.is_empty() {
        into.push(path);
    }
}
