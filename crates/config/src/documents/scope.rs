//! The key of a document → what it is about.

use crate::names;

/// What a document is about, by its key below the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DocumentScope<'a> {
    /// `defaults`: every service, in every sidecar.
    Defaults,
    /// `services/NAME`
    Service(&'a str),
    /// `apps/APP/defaults`: every service, for the sidecars of one app.
    AppDefaults { app: &'a str },
    /// `apps/APP/services/NAME`
    AppService { app: &'a str, service: &'a str },
}

impl<'a> DocumentScope<'a> {
    /// The scope of the document of this name. `None`: the key is no document, as `.outrigger`.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        let parts: Vec<_> = name.split('/').collect();
        let is_service = |name: &str| names::service(name).is_ok();
        match parts.as_slice() {
            ["defaults"] => Some(Self::Defaults),
            ["services", service] if is_service(service) => Some(Self::Service(service)),
            ["apps", app, "defaults"] if is_service(app) => Some(Self::AppDefaults { app }),
            ["apps", app, "services", service] if is_service(app) && is_service(service) => {
                Some(Self::AppService { app, service })
            }
            _ => None,
        }
    }

    /// The app that the document is for. `None`: every app.
    pub(crate) fn app(&self) -> Option<&'a str> {
        match *self {
            Self::AppDefaults { app } | Self::AppService { app, .. } => Some(app),
            Self::Defaults | Self::Service(_) => None,
        }
    }

    /// The service that the document is about. `None`: all.
    pub(crate) fn service(&self) -> Option<&'a str> {
        match *self {
            Self::Service(service) | Self::AppService { service, .. } => Some(service),
            Self::Defaults | Self::AppDefaults { .. } => None,
        }
    }

    /// The more general documents first, because each is read over those before it.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Defaults => 0,
            Self::AppDefaults { .. } => 1,
            Self::Service(_) => 2,
            Self::AppService { .. } => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_what_its_document_is_about() {
        for (name, expected) in [
            ("defaults", Some(DocumentScope::Defaults)),
            ("services/orders", Some(DocumentScope::Service("orders"))),
            ("services/Billing.V2", Some(DocumentScope::Service("Billing.V2"))),
            ("apps/shop/defaults", Some(DocumentScope::AppDefaults { app: "shop" })),
            ("apps/shop/services/orders", Some(DocumentScope::AppService { app: "shop", service: "orders" })),
            (".outrigger", None),
            ("", None),
            ("defaults/", None),
            ("services", None),
            ("services/", None),
            ("services/a/b", None),
            ("services/a b", None),
            ("apps/shop", None),
            ("apps/shop/services/", None),
            ("apps/shop/services/10.0.0.5", None),
            ("receipts/orders/1", None),
        ] {
            assert_eq!(DocumentScope::of(name), expected, "{name:?}");
        }
    }
}
