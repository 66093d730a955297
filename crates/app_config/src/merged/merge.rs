//! Layers of properties → one configuration. A property of a more specific layer hides the one with its name in the others.
//!
//! A list is one value: where a layer has any item of `hosts`, or `hosts` itself, the items of the layers below are hidden, as Spring
//! binds a list from one source. Where one layer has a list and another one an object of that name, the more specific one is all.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    path::{PathSegment, PropertyPath},
    property::{MergedProperty, PropertyOrigin, ViewProblem},
    source::{PropertyLayer, SourceProperties},
    tree::{Tree, build_tree},
};

/// The merged configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigView {
    /// In the order of their names, items of lists in the order of their numbers.
    pub(super) properties: Vec<MergedProperty>,
    /// What is in none of the formats.
    pub(super) hidden: Vec<HiddenProperty>,
    pub(super) problems: Vec<ViewProblem>,
    pub(super) tree: Tree,
}

/// A property of a less specific layer that another one hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiddenProperty {
    /// Its name.
    pub name: String,
    /// The key that has it.
    pub origin: Arc<PropertyOrigin>,
}

impl ConfigView {
    /// Merges sources, most specific first.
    pub fn merge(sources: Vec<SourceProperties>) -> Self {
        let mut merge = Merge::default();
        let mut problems = Vec::new();
        let mut layers = Vec::new();
        for source in sources {
            layers.extend(source.layers);
            problems.extend(source.problems);
        }
        for (rank, layer) in layers.into_iter().enumerate() {
            merge.add(rank, layer);
        }
        let Merge { properties, hidden, .. } = merge;
        let tree = build_tree(&properties, &mut problems);
        Self { properties: properties.into_values().collect(), hidden, problems, tree }
    }

    /// The properties, in the order of their names.
    pub fn properties(&self) -> &[MergedProperty] {
        &self.properties
    }

    /// The properties of less specific sources that are not used.
    pub fn hidden(&self) -> &[HiddenProperty] {
        &self.hidden
    }

    /// What is wrong in the keys.
    pub fn problems(&self) -> &[ViewProblem] {
        &self.problems
    }
}

#[derive(Default)]
struct Merge {
    properties: BTreeMap<PropertyPath, MergedProperty>,
    hidden: Vec<HiddenProperty>,
    /// The lists that a layer has.
    lists: HashSet<Vec<PathSegment>>,
    /// Everything at or above a property.
    occupied: HashSet<Vec<PathSegment>>,
}

impl Merge {
    fn add(&mut self, rank: usize, layer: PropertyLayer) {
        let mut added = BTreeSet::new();
        for (name, value, origin) in layer.properties {
            let path = PropertyPath::of(&name);
            if self.hides(&path) && !added.contains(&path) {
                self.hidden.push(HiddenProperty { name, origin });
                continue;
            }
            // Of two in one layer the later one counts.
            let before = self.properties.insert(path.clone(), MergedProperty { name, value, origin, rank });
            self.hidden
                .extend(before.map(|before| HiddenProperty { name: before.name, origin: before.origin }));
            added.insert(path);
        }
        for path in &added {
            self.lists.extend(path.lists().map(<[_]>::to_vec));
            self.occupied.extend(path.beginnings().map(<[_]>::to_vec));
        }
    }

    /// Whether the layers above leave no place for this one.
    fn hides(&self, path: &PropertyPath) -> bool {
        self.properties.contains_key(path)
            || path.beginnings().any(|beginning| self.lists.contains(beginning))
            || path.lists().any(|list| self.occupied.contains(list))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::value::PropertyValue, *};

    fn layer(number: u64, properties: &[(&str, &str)]) -> PropertyLayer {
        let origin = Arc::new(PropertyOrigin { key: format!("k{number}"), index: number });
        let property = |(name, value): &(&str, &str)| {
            (name.to_string(), PropertyValue::Text(value.to_string()), origin.clone())
        };
        PropertyLayer { properties: properties.iter().map(property).collect() }
    }

    fn merged(layers: &[&[(&str, &str)]]) -> ConfigView {
        let layers = (0..).zip(layers).map(|(number, properties)| layer(number, properties)).collect();
        ConfigView::merge(vec![SourceProperties { layers, problems: Vec::new() }])
    }

    fn check(layers: &[&[(&str, &str)]], expected: &str, hidden: &str) {
        let view = merged(layers);
        let shown = |property: &MergedProperty| {
            format!(
                "{}={}@{}",
                property.name,
                property.value.as_text().unwrap_or_default(),
                property.origin.key
            )
        };
        assert_eq!(view.properties().iter().map(shown).collect::<Vec<_>>().join(" "), expected);
        let shown = |one: &HiddenProperty| format!("{}@{}", one.name, one.origin.key);
        assert_eq!(view.hidden().iter().map(shown).collect::<Vec<_>>().join(" "), hidden);
    }

    #[test]
    fn the_more_specific_layer_wins_for_each_name() {
        check(
            &[&[("b", "1"), ("a.x", "1")], &[("a.x", "2"), ("a.y", "2")], &[("b", "3"), ("c", "3")]],
            "a.x=1@k0 a.y=2@k1 b=1@k0 c=3@k2",
            "a.x@k1 b@k2",
        );
        check(&[&[("a", "1"), ("a", "2")]], "a=2@k0", "a@k0");
        check(&[&[("a[b]", "1")], &[("a.b", "2")]], "a[b]=1@k0", "a.b@k1");
    }

    #[test]
    fn a_list_is_replaced_whole() {
        check(
            &[&[("a[0]", "1")], &[("a[0]", "2"), ("a[1]", "2"), ("b[0].c", "2")], &[("b[0].d", "3")]],
            "a[0]=1@k0 b[0].c=2@k1",
            "a[0]@k1 a[1]@k1 b[0].d@k2",
        );
        check(&[&[("a", "x,y")], &[("a[0]", "2")]], "a=x,y@k0", "a[0]@k1");
        check(&[&[("a[0]", "1")], &[("a", "x,y")]], "a[0]=1@k0", "a@k1");
        check(&[&[("a[10]", "3"), ("a[2]", "2"), ("a[0]", "1")]], "a[0]=1@k0 a[2]=2@k0 a[10]=3@k0", "");
    }

    #[test]
    fn a_list_and_an_object_of_one_name_do_not_mix() {
        check(&[&[("a[0]", "1")], &[("a.b", "2")]], "a[0]=1@k0", "a.b@k1");
        check(&[&[("a.b", "1")], &[("a[0]", "2")]], "a.b=1@k0", "a[0]@k1");
    }

    #[test]
    fn a_value_does_not_hide_the_properties_below_its_name() {
        check(&[&[("a", "1")], &[("a.b", "2")]], "a=1@k0 a.b=2@k1", "");
        check(&[&[("a.b", "1")], &[("a", "2")]], "a=2@k1 a.b=1@k0", "");
    }

    #[test]
    fn no_source_is_an_empty_configuration() {
        assert_eq!(ConfigView::merge(Vec::new()).properties(), []);
    }

    proptest! {
        /// Without lists the configuration is that of maps that are filled from the least specific layer on.
        #[test]
        fn plain_names_merge_as_maps_do(layers in proptest::collection::vec(
            proptest::collection::vec(("[abc](\\.[abc]){0,2}", "[0-9]"), 0..8), 0..5)
        ) {
            let borrowed: Vec<Vec<(&str, &str)>> =
                layers.iter().map(|layer| layer.iter().map(|(name, value)| (&**name, &**value)).collect()).collect();
            let borrowed: Vec<&[(&str, &str)]> = borrowed.iter().map(Vec::as_slice).collect();
            let view = merged(&borrowed);
            let mut expected = BTreeMap::new();
            for layer in layers.iter().rev() {
                expected.extend(layer.iter().cloned());
            }
            let got: BTreeMap<_, _> = view
                .properties()
                .iter()
                .map(|one| (one.name.clone(), one.value.as_text().unwrap_or_default().into_owned()))
                .collect();
            prop_assert_eq!(got, expected);
        }

        /// Whatever the layers have: each property is in the result or hidden, and each list is of one layer.
        #[test]
        fn nothing_is_lost_and_lists_are_of_one_layer(layers in proptest::collection::vec(
            proptest::collection::vec("[ab](\\.[ab]|\\[[01]\\]){0,3}", 0..6), 0..4)
        ) {
            let with_values: Vec<Vec<(&str, &str)>> =
                layers.iter().map(|layer| layer.iter().map(|name| (&**name, "")).collect()).collect();
            let borrowed: Vec<&[(&str, &str)]> = with_values.iter().map(Vec::as_slice).collect();
            let view = merged(&borrowed);
            let count = layers.iter().map(Vec::len).sum::<usize>();
            prop_assert_eq!(view.properties().len() + view.hidden().len(), count);
            let mut layer_of_list = BTreeMap::new();
            for property in view.properties() {
                for list in PropertyPath::of(&property.name).lists() {
                    let of = *layer_of_list.entry(list.to_vec()).or_insert(property.rank);
                    prop_assert_eq!(of, property.rank, "{:?}", list);
                }
            }
        }
    }
}
