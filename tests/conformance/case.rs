//! The parts of a case.

use std::time::Duration;

/// A list of requests. All entries are removed from the registry after each case.
pub(crate) struct Case {
    /// The name, also of its recording.
    pub(crate) name: &'static str,
    /// Whether the case needs a new registry.
    pub(crate) fresh: bool,
    pub(crate) steps: Vec<Step>,
}

/// A case on the shared registry.
pub(crate) fn case(name: &'static str, steps: Vec<Step>) -> Case {
    Case { name, fresh: false, steps }
}

/// A case on a new registry.
pub(crate) fn fresh_case(name: &'static str, steps: Vec<Step>) -> Case {
    Case { name, fresh: true, steps }
}

/// One action; its result is compared with the recording.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) action: Action,
    /// Where in the JSON answer the value is that later requests of the case name as `{name}`, and its name.
    pub(crate) saves: Option<(&'static str, &'static str)>,
    /// Why the dev registry answers differently.
    pub(crate) differs: Option<&'static str>,
}

#[derive(Clone)]
pub(crate) enum Action {
    Request {
        method: &'static str,
        path: String,
        body: String,
    },
    /// Repeats `GET` until the body contains this text; the last answer is the result.
    Until {
        path: String,
        has: &'static str,
    },
    /// The fields of a JSON answer, in order; of a list those of its first element.
    Shape {
        path: &'static str,
    },
    /// The part of a JSON answer at this pointer.
    Part {
        path: &'static str,
        pointer: &'static str,
    },
    /// The rows that a filter keeps, or the error.
    Filtered {
        path: String,
        expression: String,
    },
    /// The names of the answer's headers, with case and order.
    HeaderNames {
        method: &'static str,
        path: &'static str,
    },
    /// Reads the path's index, then starts a blocking query with it in the background.
    Watch {
        path: String,
        offset: i64,
    },
    /// The answer of the query in the background, and whether a change woke it or its wait ended.
    Outcome,
    /// Lets time pass: what a registry does by its clock has no other sign.
    Pause(Duration),
    /// Reads a service's hash, then starts a blocking query with it in the background.
    WatchHash {
        path: String,
    },
}

impl Step {
    /// Keeps the value at `pointer` of the JSON answer: in later requests of the case, `{name}` stands for it.
    pub(crate) fn saving(mut self, pointer: &'static str, name: &'static str) -> Self {
        self.saves = Some((pointer, name));
        self
    }

    /// Marks a step that the dev registry answers differently on purpose.
    pub(crate) fn differs(mut self, why: &'static str) -> Self {
        self.differs = Some(why);
        self
    }
}

fn step(what: Action) -> Step {
    Step { action: what, saves: None, differs: None }
}

pub(crate) fn get(path: &str) -> Step {
    call("GET", path, "")
}

pub(crate) fn put(path: &str, body: &str) -> Step {
    call("PUT", path, body)
}

pub(crate) fn call(method: &'static str, path: &str, body: &str) -> Step {
    step(Action::Request { method, path: path.to_owned(), body: body.to_owned() })
}

/// `PUT agent/service/register`
pub(crate) fn register(body: &str) -> Step {
    put("/v1/agent/service/register", body)
}

/// `PUT agent/service/deregister/ID`
pub(crate) fn deregister(id: &str) -> Step {
    put(&format!("/v1/agent/service/deregister/{id}"), "")
}

pub(crate) fn until(path: &str, has: &'static str) -> Step {
    step(Action::Until { path: path.to_owned(), has })
}

/// A list, with a filter expression.
pub(crate) fn filtered(path: &str, expression: &str) -> Step {
    step(Action::Filtered { path: path.to_owned(), expression: expression.to_owned() })
}

pub(crate) fn shape(path: &'static str) -> Step {
    step(Action::Shape { path })
}

pub(crate) fn part(path: &'static str, pointer: &'static str) -> Step {
    step(Action::Part { path, pointer })
}

pub(crate) fn header_names(method: &'static str, path: &'static str) -> Step {
    step(Action::HeaderNames { method, path })
}

pub(crate) fn watch(path: &str) -> Step {
    step(Action::Watch { path: path.to_owned(), offset: 0 })
}

/// Watches from an index that the registry has not reached.
pub(crate) fn watch_ahead(path: &str) -> Step {
    step(Action::Watch { path: path.to_owned(), offset: 1_000_000 })
}

pub(crate) fn watch_hash(path: &str) -> Step {
    step(Action::WatchHash { path: path.to_owned() })
}

pub(crate) fn pause(time: Duration) -> Step {
    step(Action::Pause(time))
}

pub(crate) fn outcome() -> Step {
    step(Action::Outcome)
}

/// A watch of `path` during one change.
pub(crate) fn over(path: &str, change: Step) -> Vec<Step> {
    vec![watch(path), change, outcome()]
}

/// The steps of a case, one list after the other.
pub(crate) fn all(steps: Vec<Vec<Step>>) -> Vec<Step> {
    steps.into_iter().flatten().collect()
}
