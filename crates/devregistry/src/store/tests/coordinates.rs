//! Network coordinates: when they are written, and what wakes their watchers.

use super::*;

fn told(node: &str, segment: &str, error: f64) -> NodeCoordinate {
    let coordinate = Coordinate { error, ..Coordinate::origin() };
    NodeCoordinate { node: node.to_owned(), segment: segment.to_owned(), coordinate }
}

fn errors(store: &Store) -> Vec<(String, f64)> {
    let row = |row: &NodeCoordinate| (format!("{}/{}", row.node, row.segment), row.coordinate.error);
    store.coordinates().map(row).collect()
}

fn external(name: &str) -> NodeInfo {
    let address = "127.0.0.9".to_owned();
    NodeInfo {
        id: String::new(),
        name: name.to_owned(),
        address,
        tagged_addresses: None,
        meta: BTreeMap::new(),
    }
}

#[test]
fn coordinates_are_written_in_batches_and_those_of_unknown_nodes_are_dropped() {
    let start = start_time();
    let mut store = fresh_store(start);
    store.update_coordinate(told("nope", "", 1.0), start);
    store.update_coordinate(told("DEV", "b", 2.0), start + SECOND);
    store.update_coordinate(told("dev", "a", 3.0), start + 2 * SECOND);
    store.update_coordinate(told("dev", "a", 4.0), start + 3 * SECOND);
    store.tick(start + 4 * SECOND);
    assert_eq!(errors(&store), [], "not before the end of the period");
    assert_eq!(store.next_tick(), Some(start + 5 * SECOND));
    store.tick(start + 5 * SECOND);
    assert_eq!(errors(&store), [("dev/a".to_owned(), 4.0), ("DEV/b".to_owned(), 2.0)]);
    let of_node: Vec<_> = store.coordinates_of("Dev").map(|row| row.segment.as_str()).collect();
    assert_eq!(of_node, ["a", "b"]);
}

#[test]
fn an_agent_tells_its_own_coordinate_after_a_while() {
    let start = start_time();
    let mut store = fresh_store(start);
    assert_eq!(store.next_tick(), Some(start + 15 * SECOND));
    store.tick(start + 15 * SECOND);
    store.tick(start + 20 * SECOND);
    assert_eq!(errors(&store), [("dev/".to_owned(), 1.5)]);
    assert_eq!(store.next_tick(), None);
}

#[test]
fn watchers_of_a_node_are_woken_by_its_coordinates_and_by_its_removal() {
    let start = start_time();
    let mut store = fresh_store(start);
    for name in ["one", "two"] {
        store.catalog_register(external(name), None, Vec::new(), start);
        store.update_coordinate(told(name, "", 1.0), start);
    }
    store.tick(start + 5 * SECOND);
    let topics = [Topic::Coordinates, Topic::CoordinatesOf("One".to_owned())];
    let look = |store: &Store| topics.clone().map(|topic| store.topic_index(&topic));
    let mut seen = look(&store);
    let mut woken = |store: &Store, what: &str| {
        let now = look(store);
        assert!(now[0].index > seen[0].index, "{what} raises the index");
        let woken = [now[0].has_woken(seen[0]), now[1].has_woken(seen[1])];
        seen = now;
        woken
    };
    store.update_coordinate(told("two", "", 2.0), start + 6 * SECOND);
    store.tick(start + 11 * SECOND);
    assert_eq!(woken(&store, "another node's coordinate"), [true, false]);
    store.update_coordinate(told("one", "x", 2.0), start + 12 * SECOND);
    store.tick(start + 17 * SECOND);
    assert_eq!(woken(&store, "a coordinate of the node"), [true, true]);
    store.catalog_deregister("one", None, None, start + 18 * SECOND);
    assert_eq!(woken(&store, "the removal of the node"), [true, true]);
    assert_eq!(store.coordinates_of("one").count(), 0);
}
