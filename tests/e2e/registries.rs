//! One test on the dev registry and on a Consul.

/// For each `NAME: TEST;` a module NAME with the tests `on_the_dev_registry` and `on_consul`, which call TEST with the address of
/// the registry. Each must end within two minutes. Without a Consul, the second reports that it is skipped.
macro_rules! on_both_registries {
    ($($module:ident: $test:path;)*) => {$(
        mod $module {
            use super::*;

            #[tokio::test]
            async fn on_the_dev_registry() {
                let any = ([127, 0, 0, 1], 0).into();
                let options = outrigger_devregistry::DevRegistryOptions::default();
                let registry =
                    outrigger_devregistry::DevRegistry::bind(any, options).await.expect("a registry");
                crate::registries::in_time($test(registry.addr())).await;
            }

            #[tokio::test]
            async fn on_consul() {
                if consul::available(concat!(module_path!(), " on Consul")) {
                    let server = consul::Consul::server().await.expect("a server");
                    crate::registries::in_time($test(server.http_addr())).await;
                }
            }
        }
    )*};
}

/// The end of a test, which must come within two minutes.
pub(crate) async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(std::time::Duration::from_secs(120), test).await.expect("in time");
}
