//! `null` in a document.

use crate::raw::{KeyNode, Node, NodeValue};

/// Removes from each layer what a layer above it drops with `null`. The most general layer is first. A key that is dropped has the
/// value that it has without these layers.
pub(crate) fn prune_layers(layers: &mut [Node]) {
    for n in 1..layers.len() {
        if let Some((upper, lower)) = layers.get_mut(..=n).and_then(<[Node]>::split_last_mut) {
            lower.iter_mut().for_each(|lower| drop_overrides(lower, upper));
        }
    }
}

fn drop_overrides(lower: &mut Node, upper: &Node) {
    let (NodeValue::Map(lower), NodeValue::Map(upper)) = (&mut lower.value, &upper.value) else { return };
    for (KeyNode { name, .. }, value) in upper {
        if value.value == NodeValue::Null {
            lower.retain(|(key, _)| key.name != *name);
        } else if let Some(at) = lower.iter().position(|(key, _)| key.name == *name) {
            drop_overrides(&mut lower[at].1, value);
            // A section of which nothing is left says nothing; where it was written empty, it stays, and is reported.
            let is_empty = |node: &Node| matches!(&node.value, NodeValue::Map(entries) if entries.is_empty());
            if is_empty(&lower[at].1) && !is_empty(value) {
                lower.remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::parse;

    /// The keys with a value, with their values.
    fn leaves(node: &Node, path: &str, out: &mut Vec<String>) {
        match &node.value {
            NodeValue::Map(entries) => {
                entries.iter().for_each(|(key, value)| leaves(value, &format!("{path}.{}", key.name), out));
            }
            NodeValue::Scalar(text) => out.push(format!("{}={text}", &path[1..])),
            NodeValue::Null => out.push(format!("{}=null", &path[1..])),
            NodeValue::Seq(_) => {}
        }
    }

    fn check(texts: &[&str], expected: &[&str]) {
        let mut layers: Vec<_> = texts.iter().map(|text| parse(text).unwrap()).collect();
        prune_layers(&mut layers);
        let got: Vec<_> = layers
            .iter()
            .map(|layer| {
                let mut out = Vec::new();
                leaves(layer, "", &mut out);
                out.join(" ")
            })
            .collect();
        assert_eq!(got, expected, "{texts:?}");
    }

    #[test]
    fn null_drops_the_key_in_every_layer_below_and_in_none_above() {
        check(&["a: 1\nb: 2", "a: null", "a: 3"], &["b=2", "a=null", "a=3"]);
        check(&["a: 1", "a: 2", "a:"], &["", "", "a=null"]);
        check(&["a: null", "a: 1"], &["a=null", "a=1"]);
        check(&["r: {x: 1, y: 2}", "r: {x: ~, z: 3}"], &["r.y=2", "r.x=null r.z=3"]);
        check(&["r: {x: 1, y: 2}\nb: 2", "r: null"], &["b=2", "r=null"]);
        check(&["s: {a: {x: 1}, b: {x: 2}}", "s: {a: {x: null, y: 3}}"], &["s.b.x=2", "s.a.x=null s.a.y=3"]);
        check(&["r: {x: 1}\nb: 2", "r: {x: null, y: 3}"], &["b=2", "r.x=null r.y=3"]);
        check(&["r: off", "r: {x: null}"], &["r=off", "r.x=null"]);
        check(&["r: off", "r: null"], &["", "r=null"]);
        check(&["b: 1", "a: null"], &["b=1", "a=null"]);
    }
}
