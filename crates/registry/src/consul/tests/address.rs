//! At which of its addresses an instance is listed.

use std::sync::{Arc, Mutex};

use config::AddressKind;

use super::{
    scripted_agent::{AgentAction, health_response, response},
    *,
};

/// The body about one instance in this datacenter, with the addresses 10.0.0.1 and 1.0.0.1.
fn listing(datacenter: &str) -> String {
    let addresses = r#""TaggedAddresses":{"wan":"1.0.0.1"}"#;
    format!(
        r#"[{{"Node":{{"Node":"n","Address":"10.0.0.1","Datacenter":"{datacenter}",{addresses}}},
            "Service":{{"ID":"a","Port":80}},"Checks":[]}}]"#
    )
}

/// An agent of `dc1`, and its answer to the question for datacenters.
async fn agent(datacenters: Vec<u8>) -> (ScriptedAgent, Arc<Mutex<Vec<u8>>>) {
    let datacenters = Arc::new(Mutex::new(datacenters));
    let answer = datacenters.clone();
    let agent = ScriptedAgent::start(move |_, request| {
        let asked = ["dc1", "dc2"].into_iter().find(|name| request.contains(&format!("dc={name}")));
        AgentAction::Send(if request.starts_with("GET /v1/catalog/datacenters") {
            answer.lock().unwrap().clone()
        } else {
            health_response("24", &listing(asked.unwrap_or("dc1")))
        })
    })
    .await;
    (agent, datacenters)
}

/// The address of the one instance.
async fn listed(consul: &Consul, datacenter: Option<&str>, address: AddressKind) -> Result<String, Error> {
    let query = Query { address, ..Query::new("orders", datacenter.map(Into::into)) };
    let answer = consul.watch(&query, Cursor::START, Consistency::Default, Duration::from_secs(1)).await?;
    Ok(answer.instances[0].addr.as_ref().unwrap().ip().to_string())
}

fn asked_for_datacenters(agent: &ScriptedAgent) -> usize {
    agent.request_lines().iter().filter(|line| line.contains("/v1/catalog/datacenters")).count()
}

const LAN: &str = "10.0.0.1";
const WAN: &str = "1.0.0.1";

#[tokio::test]
async fn an_instance_of_another_datacenter_is_listed_at_its_address_for_other_networks() {
    let (agent, _) = agent(response(200, &[], r#"["dc1","dc2"]"#)).await;
    let consul = client(&agent);
    for (datacenter, address, expected) in [
        // An answer without a datacenter says which one is the agent's own.
        (None, AddressKind::Auto, LAN),
        (Some("DC1"), AddressKind::Auto, LAN),
        (Some("dc1"), AddressKind::Auto, LAN),
        (Some("dc2"), AddressKind::Auto, WAN),
        (None, AddressKind::Wan, WAN),
        (Some("dc1"), AddressKind::Wan, WAN),
        (Some("dc2"), AddressKind::Wan, WAN),
        (None, AddressKind::Lan, LAN),
        (Some("dc2"), AddressKind::Lan, LAN),
    ] {
        let listed = listed(&consul, datacenter, address).await.unwrap();
        assert_eq!(listed, expected, "{datacenter:?} {address:?}");
    }
    assert_eq!(asked_for_datacenters(&agent), 0);
}

#[tokio::test]
async fn the_agent_is_asked_once_for_its_own_datacenter_where_no_answer_has_said_it() {
    let (agent, _) = agent(response(200, &[], r#"["dc1","dc2"]"#)).await;
    let consul = client(&agent);
    for (datacenter, expected) in [("dc2", WAN), ("dc1", LAN), ("dc2", WAN)] {
        assert_eq!(listed(&consul, Some(datacenter), AddressKind::Auto).await.unwrap(), expected);
    }
    assert_eq!(asked_for_datacenters(&agent), 1);

    // With a datacenter in the settings an answer does not say what the agent's own is.
    let settings = config::ConsulSettings { datacenter: Some("dc2".into()), ..settings(&agent) };
    let consul = Consul::new(&settings).unwrap();
    assert_eq!(listed(&consul, None, AddressKind::Auto).await.unwrap(), WAN);
    assert_eq!(listed(&consul, Some("dc1"), AddressKind::Auto).await.unwrap(), LAN);
    assert_eq!(asked_for_datacenters(&agent), 2);
}

#[tokio::test]
async fn while_the_own_datacenter_cannot_be_asked_for_the_answer_is_an_error_and_no_other_address() {
    let (agent, datacenters) = agent(response(500, &[], "rpc error")).await;
    let consul = client(&agent);
    assert!(listed(&consul, Some("dc2"), AddressKind::Auto).await.is_err());
    *datacenters.lock().unwrap() = response(200, &[], r#"["dc1","dc2"]"#);
    assert_eq!(listed(&consul, Some("dc2"), AddressKind::Auto).await.unwrap(), WAN);

    // What does not know the question lists as it always did.
    let (agent, _) = self::agent(response(404, &[], "")).await;
    assert_eq!(listed(&client(&agent), Some("dc2"), AddressKind::Auto).await.unwrap(), LAN);
}
