//! What is known of what the registry says of a cluster's requests, for pages and metrics.

use std::sync::Arc;

use outrigger_discovery::ChainRules;

use crate::upstream::subset::Subset;

/// What is known of the chain of a cluster.
#[derive(Debug)]
pub(crate) enum ChainState {
    /// The file or a document says where its requests go.
    Ignored,
    /// There is no answer yet.
    Unasked,
    /// The registry gives none, because of this.
    Unavailable(String),
    /// It holds.
    Known {
        chain: Arc<ChainRules>,
        /// What it names, with the endpoints. Empty: it says nothing of the requests.
        targets: Vec<(Arc<str>, Arc<Subset>)>,
    },
}
