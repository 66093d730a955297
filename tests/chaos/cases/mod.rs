//! The cases: one file per guarantee, and the list of all cases.

use crate::case::{
    Case,
    Requirement::{self, Consul, Nginx},
};

mod agent;
mod config_restart;
mod cut;
mod deploy;
mod down;
mod failover;
mod faults;
mod keepalive;
mod kill;
mod locks;
mod names;
mod pause;
mod replace;
mod servers;
mod settings;
mod slow;
mod soak;
mod tcp;
mod traffic;
mod unhealthy;

const CONSUL: &[Requirement] = &[Consul];
const CONSUL_AND_NGINX: &[Requirement] = &[Consul, Nginx];

/// All cases, in the order in which they run. Of those that run beside each other, the longest come first.
pub(crate) fn all() -> Vec<Case> {
    vec![
        Case::new(
            "kill-one",
            CONSUL,
            [180, 60],
            kill::one,
            "kill -9 of one of three, ten times: no GET fails, a POST only as sent_unknown; \
             no attempt on the dead one later than 100 ms after the kill",
        ),
        Case::new(
            "kill-two",
            CONSUL,
            [60, 40],
            kill::two,
            "kill -9 of two of three at once at 1,000 requests a second: the same",
        ),
        Case::new(
            "kill-most",
            CONSUL,
            [60, 40],
            kill::most,
            "kill -9 of seven of nine at once at 1,000 requests a second: the same",
        ),
        Case::new(
            "kill-tcp",
            CONSUL,
            [120, 60],
            tcp::kill_one_of_two,
            "kill -9 of one of two behind a TCP listener: only its connections end, and none finds no instance",
        ),
        Case::new(
            "stop-one",
            CONSUL,
            [120, 60],
            pause::with_try_timeout,
            "SIGSTOP of one of three, SIGCONT later, per_try_timeout 500 ms: no GET fails or takes longer than \
             two tries; the stopped one is ejected, and comes back",
        ),
        Case::new(
            "stop-default",
            CONSUL,
            [120, 60],
            pause::with_defaults,
            "the same with the default settings: no GET fails or takes longer than 3 s; the stopped one is \
             ejected, and comes back",
        ),
        Case::new(
            "close-nginx",
            CONSUL_AND_NGINX,
            [400, 60],
            keepalive::nginx,
            "three nginx with keepalive_requests 10, 100,000 requests: none fails, GET or POST",
        ),
        Case::new(
            "close-unannounced",
            CONSUL,
            [120, 60],
            keepalive::unannounced,
            "three instances that close after 10 requests and do not say so: no GET fails, a POST only as \
             sent_unknown",
        ),
        Case::new(
            "one-503",
            CONSUL,
            [120, 60],
            unhealthy::busy,
            "one of three answers 503 to everything: fewer than 0.1 % of the GETs fail",
        ),
        Case::new(
            "one-500",
            CONSUL,
            [150, 60],
            unhealthy::broken,
            "one of three answers 500 to everything: it is ejected within 100 of its requests, and fewer than 1 % of \
             all fail over 60 s",
        ),
        Case::new(
            "one-slow",
            CONSUL,
            [120, 60],
            unhealthy::slow,
            "one of three takes 2 s, per_try_timeout 300 ms: fewer than 0.1 % of the GETs fail",
        ),
        Case::new(
            "all-down",
            CONSUL,
            [120, 60],
            down::killed,
            "all instances die and come back: meanwhile requests fail fast with a reason; they succeed within 1 s \
             of the first one accepting and passing in Consul",
        ),
        Case::new(
            "all-replaced",
            CONSUL,
            [120, 60],
            down::replaced,
            "all instances die, stay in Consul as passing, and are replaced by new ones elsewhere: the same",
        ),
        Case::new(
            "deploy-three",
            CONSUL,
            [240, 90],
            deploy::three,
            "rolling deploy of three, each `outrigger run -- app`, five rounds: no request of any method fails",
        ),
        Case::new(
            "deploy-one",
            CONSUL,
            [240, 90],
            deploy::one,
            "the same for a service of one: start new, stop old",
        ),
        Case::new(
            "replace",
            CONSUL,
            [180, 90],
            replace::both,
            "`run --replace` of the caller's sidecar and of the instance's, ten times under load on keep-alive and on new \
             connections: none is refused, no request of any method fails, and the registration is never critical or absent",
        ),
        Case::new(
            "locks",
            CONSUL,
            [1800, 240],
            locks::contended,
            "ten apps and `consul lock` contend for a mutex, and the apps for a semaphore of three, while the leader is killed, an agent \
             is lost with its node, all servers stop, and sidecars are killed, frozen, replaced and drained: never more holders than the limit, every \
             loss is told before the next acquisition, tokens grow, leases outlive a restart of their sidecar, every app acquires \
             again, and 0 requests fail",
        )
        .beside(),
        Case::new(
            "settings",
            CONSUL,
            [1200, 200],
            settings::changed,
            "settings in the KV change a thousand times under load, good and bad ones, deleted ones and rebuilt trees, while the leader \
             is killed, the agent restarted and all servers stop: 0 failed, and every sidecar ends at the last version, or refuses it \
             with the reason and keeps the last good one",
        )
        .beside(),
        Case::new(
            "registry-faults",
            CONSUL,
            [600, 300],
            faults::all,
            "Consul answers garbage, 500, 429, nothing, half a body, half a list, or an empty list: \
             0 failed; it is asked less often; CPU stays under 5 % of a core",
        )
        .beside(),
        Case::new(
            "config-restart",
            CONSUL,
            [400, 200],
            config_restart::all,
            "a change in the KV restarts four instances one after the other, each `outrigger run -- app`: no request of any method \
             fails, and never more than one is out; a content that makes the app ill stops at one instance, and the next \
             content heals it",
        )
        .beside(),
        Case::new(
            "servers-stopped",
            CONSUL,
            [300, 150],
            servers::stopped,
            "all servers stopped for 2 minutes, and a caller's sidecar restarted meanwhile: 0 failed, the table is \
             kept, also by the restarted one",
        )
        .beside(),
        Case::new(
            "names",
            CONSUL,
            [300, 120],
            names::kept,
            "names by DNS while Consul is killed, and while it does not answer: each answer has all instances; a name that nothing is \
             known of gets SERVFAIL within 1.5 s, never that it does not exist",
        )
        .beside(),
        Case::new(
            "agent-emptied",
            CONSUL,
            [240, 120],
            agent::emptied,
            "the agent is restarted with empty data: 0 failed, the table is kept, all instances are registered \
             again less than 10 s after it is back",
        )
        .beside(),
        Case::new(
            "node-reaped",
            CONSUL,
            [180, 90],
            servers::reaped,
            "the servers lose the node and all its services, while its agent still assumes that they have it: \
             0 failed, the table is kept, all instances are listed again in less than 10 s",
        )
        .beside(),
        Case::new(
            "leader-killed",
            CONSUL,
            [120, 90],
            servers::leader,
            "Consul's leader is killed (-9): 0 failed, nothing is registered anew",
        )
        .beside(),
        Case::new(
            "failover",
            CONSUL,
            [300, 120],
            failover::own_lost,
            "two datacenters, joined over the WAN: all local instances are killed and come back: no GET fails, a POST only as \
             sent_unknown; all of them answer 503 and recover: at most 20 GETs fail until they are ejected; requests go to the other \
             datacenter, and return",
        )
        .beside(),
        Case::new(
            "failover-cut",
            CONSUL,
            [400, 200],
            failover::other_cut,
            "the other datacenter, its Consul and its instances, is frozen, and killed, and comes back; its Consul alone is dead, and the \
             own Consul is dead, while all local instances are killed: no GET fails, a POST only as sent_unknown",
        )
        .beside(),
        Case::new(
            "settings-lone",
            CONSUL,
            [900, 300],
            settings::lone,
            "a lone change of settings in the KV is in effect within 100 ms (p99), on one server and through the agent of three",
        ),
        Case::new(
            "slow-clients",
            &[],
            [300, 150],
            slow::slow,
            "1,000 clients that send heads or bodies, or read answers, in small pieces: all are served, \
             none costs 200 KiB, and nothing leaks",
        ),
        Case::new(
            "cut-exchanges",
            &[],
            [300, 150],
            cut::cut,
            "clients that disconnect in the middle, instances that send half an answer, early answers to uploads: \
             half an answer never looks complete, an early one arrives, and nothing leaks",
        ),
        Case::new(
            "soak",
            &[],
            [400, 120],
            soak::soak,
            "traffic of ten kinds at once, slow clients among them, while one of three instances after the other is killed, the \
             registry lists others twice a second and the settings are reloaded: only what the death of its instance leaves no \
             other end for fails, no POST is executed twice, the metrics count what was seen, and afterwards nothing leaks \
             and nothing runs",
        ),
    ]
}
