//! The fields that a filter may name in the lists of Consul 1.8, by list. Their names are those of the JSON. Consul leaves out indexes, the
//! definition of a check, and free-form settings of proxies.

use crate::FieldType::{self, Boolean, Integer, List, Map, Record, Text};

const TEXTS: FieldType = Map(&Text);

const ADDRESSES: FieldType = Map(&Record(&[("Address", Text), ("Port", Integer)]));

const WEIGHTS: FieldType = Record(&[("Passing", Integer), ("Warning", Integer)]);

/// Of Connect, which this registry does not have: no service has a value here.
const PROXY: FieldType = Record(&[
    ("DestinationServiceName", Text),
    ("DestinationServiceID", Text),
    ("LocalServiceAddress", Text),
    ("LocalServicePort", Integer),
    (
        "Upstreams",
        List(&Record(&[
            ("DestinationType", Text),
            ("DestinationNamespace", Text),
            ("DestinationName", Text),
            ("Datacenter", Text),
            ("LocalBindAddress", Text),
            ("LocalBindPort", Integer),
            ("MeshGateway", MESH_GATEWAY),
        ])),
    ),
    ("MeshGateway", MESH_GATEWAY),
    (
        "Expose",
        Record(&[
            ("Checks", Boolean),
            (
                "Paths",
                List(&Record(&[
                    ("ListenerPort", Integer),
                    ("Path", Text),
                    ("LocalPathPort", Integer),
                    ("Protocol", Text),
                    ("ParsedFromCheck", Boolean),
                ])),
            ),
        ]),
    ),
]);

const MESH_GATEWAY: FieldType = Record(&[("Mode", Text)]);

const CONNECT: FieldType = Record(&[("Native", Boolean)]);

/// `catalog/nodes`
pub const NODE: FieldType = Record(&[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", TEXTS),
    ("Meta", TEXTS),
]);

/// `catalog/node`, `catalog/node-services`, `agent/services`
pub const SERVICE: FieldType = Record(&[
    ("Kind", Text),
    ("ID", Text),
    ("Service", Text),
    ("Tags", List(&Text)),
    ("Address", Text),
    ("TaggedAddresses", ADDRESSES),
    ("Meta", TEXTS),
    ("Port", Integer),
    ("Weights", WEIGHTS),
    ("EnableTagOverride", Boolean),
    ("Proxy", PROXY),
    ("Connect", CONNECT),
]);

/// `catalog/service`
pub const CATALOG_SERVICE: FieldType = Record(&[
    ("ID", Text),
    ("Node", Text),
    ("Address", Text),
    ("Datacenter", Text),
    ("TaggedAddresses", TEXTS),
    ("NodeMeta", TEXTS),
    ("ServiceKind", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", List(&Text)),
    ("ServiceAddress", Text),
    ("ServiceTaggedAddresses", ADDRESSES),
    ("ServiceWeights", WEIGHTS),
    ("ServiceMeta", TEXTS),
    ("ServicePort", Integer),
    ("ServiceEnableTagOverride", Boolean),
    ("ServiceProxy", PROXY),
    ("ServiceConnect", CONNECT),
]);

/// `health/checks`, `health/state`, `health/node`, `agent/checks`
pub const CHECK: FieldType = Record(&[
    ("Node", Text),
    ("CheckID", Text),
    ("Name", Text),
    ("Status", Text),
    ("Notes", Text),
    ("Output", Text),
    ("ServiceID", Text),
    ("ServiceName", Text),
    ("ServiceTags", List(&Text)),
    ("Type", Text),
]);

/// `health/service`
pub const HEALTH: FieldType = Record(&[("Node", NODE), ("Service", SERVICE), ("Checks", List(&CHECK))]);
