//! What a settings file, flags and variables say of services, as it is written: documents of the registry's KV are put between
//! the file's defaults and its upstreams, so all of it is read again.

use std::{fmt, sync::Arc};

use crate::{
    Environment, Overrides,
    layers::Overlay,
    raw::{Node, NodeValue},
    renamed::RenamedKeys,
};

/// What a file, flags and variables say of services: what documents are put over.
#[derive(Clone, Default)]
pub(crate) struct PolicySource(pub(crate) Option<Arc<FilePolicies>>);

/// The sections of a file, and what their values are read with.
pub(crate) struct FilePolicies {
    pub(crate) file: Arc<str>,
    pub(crate) defaults: Option<Node>,
    pub(crate) upstreams: Vec<Node>,
    pub(crate) renamed: RenamedKeys,
    pub(crate) env: Environment,
    pub(crate) overlay: Overlay,
}

impl FilePolicies {
    /// Those of no file.
    pub(crate) fn none() -> Self {
        Self {
            file: Arc::from(""),
            defaults: None,
            upstreams: Vec::new(),
            renamed: RenamedKeys::default(),
            env: Environment::default(),
            overlay: Overlay::default(),
        }
    }
}

impl PolicySource {
    /// `tree` has the present names of keys.
    pub(crate) fn new(
        file: &Arc<str>,
        tree: &Node,
        renamed: &RenamedKeys,
        env: &Environment,
        overrides: &Overrides,
    ) -> Self {
        let upstreams = match tree.get("upstreams").map(|node| &node.value) {
            Some(NodeValue::Seq(items)) => items.clone(),
            _ => Vec::new(),
        };
        Self(Some(Arc::new(FilePolicies {
            file: Arc::clone(file),
            defaults: tree.get("defaults").cloned(),
            upstreams,
            renamed: renamed.without_problems(),
            env: env.clone(),
            overlay: Overlay::new(env, overrides),
        })))
    }

    pub(crate) fn file_policies(&self) -> Option<&FilePolicies> {
        self.0.as_deref()
    }
}

impl fmt::Debug for PolicySource {
    // The nodes are the settings again, and the environment holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySource").finish_non_exhaustive()
    }
}
