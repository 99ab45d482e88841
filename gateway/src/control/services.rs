//! What the kernel is told to do with each vip, from the configuration and the endpoints as they are now. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::model::{Config, Vip, VipMode, VipTarget};
use crate::xdp::{Backend, Service, Target};

/// An endpoint as it is now: resolved, and asked how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointNow {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share in the configuration.
    pub weight: u16,
    /// Whether it drains.
    pub drain: bool,
    /// Whether its health checks succeed.
    pub healthy: bool,
    /// How long it has been there, or been healthy again; `None` is for ever.
    pub age: Option<Duration>,
}

/// Steps in which a slow start reaches the full share. Each makes the kernel a new table.
pub const STEPS: u32 = 10;

/// The services of a configuration. `clusters` has the endpoints of each, by cluster id.
pub fn services(config: &Config, clusters: &[Vec<EndpointNow>]) -> Vec<Service> {
    config.vips.iter().map(|vip| service(vip, config, clusters)).collect()
}

/// The time until a share of the slow start of some cluster of a vip is due to grow; `None` when all are full.
pub fn next_step(config: &Config, clusters: &[Vec<EndpointNow>]) -> Option<Duration> {
    let used = config.vips.iter().filter_map(|vip| match vip.target {
        VipTarget::Cluster(id) => Some((config.clusters[id.index()].slow_start, &clusters[id.index()])),
        VipTarget::Listener(_) => None,
    });
    let ramping = used.flat_map(|(slow_start, endpoints)| {
        let endpoints = endpoints.iter().filter(|endpoint| endpoint.healthy && !endpoint.drain);
        endpoints.filter_map(move |endpoint| endpoint.age.filter(|age| *age < slow_start).map(|age| (slow_start, age)))
    });
    ramping.map(|(slow_start, age)| slow_start * (step(slow_start, age)) / STEPS - age).min()
}

/// The virtual addresses at which health checks of each cluster ask, by cluster id: those of its vips in the modes in which
/// an endpoint has to have them.
pub fn asked_at(config: &Config) -> Vec<Vec<(IpAddr, VipMode)>> {
    let mut asked = vec![Vec::new(); config.clusters.len()];
    for vip in &config.vips {
        if let (VipMode::Dsr | VipMode::Ipip, VipTarget::Cluster(id)) = (vip.mode, vip.target)
            && config.clusters[id.index()].health_check.is_some()
        {
            let (of_cluster, way): (&mut Vec<_>, _) = (&mut asked[id.index()], (vip.address.ip(), vip.mode));
            if !of_cluster.contains(&way) {
                of_cluster.push(way);
            }
        }
    }
    asked
}

fn service(vip: &Vip, config: &Config, clusters: &[Vec<EndpointNow>]) -> Service {
    let target = match vip.target {
        VipTarget::Listener(_) => Target::Local,
        VipTarget::Cluster(id) => {
            let slow_start = config.clusters[id.index()].slow_start;
            let endpoints = clusters[id.index()].iter().filter(|now| now.address.is_ipv4() == vip.address.is_ipv4());
            Target::Backends { mode: vip.mode, affinity: vip.affinity, backends: backends(endpoints, slow_start) }
        }
    };
    Service { name: vip.name.clone(), address: vip.address, protocol: vip.protocol, target, drain: vip.drain }
}

/// Sorted by address, each once: two names may have the same address, and then it has both shares. When all that do not
/// drain are unhealthy, all are used.
fn backends<'a>(endpoints: impl Iterator<Item = &'a EndpointNow> + Clone, slow_start: Duration) -> Vec<Backend> {
    let panic = !endpoints.clone().any(|now| now.healthy && !now.drain);
    let mut by_address: BTreeMap<SocketAddr, Backend> = BTreeMap::new();
    for now in endpoints {
        let alive = now.healthy || (panic && !now.drain);
        let backend = by_address.entry(now.address).or_insert(Backend { address: now.address, weight: 0, alive });
        if alive && !now.drain {
            backend.weight += share(now, slow_start);
        }
    }
    by_address.into_values().collect()
}

/// With a slow start the full share has a factor too, so that the others' shares do not change when a ramp ends.
fn share(now: &EndpointNow, slow_start: Duration) -> u32 {
    match (slow_start, now.age) {
        (Duration::ZERO, _) => now.weight.into(),
        (_, None) => u32::from(now.weight) * STEPS,
        (_, Some(age)) => u32::from(now.weight) * step(slow_start, age),
    }
}

/// The step a ramp is at: 1 at its beginning, [`STEPS`] at its end.
fn step(slow_start: Duration, age: Duration) -> u32 {
    let done = age.as_secs_f64() / slow_start.as_secs_f64();
    (1 + (done * f64::from(STEPS)) as u32).min(STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{ClusterId, HealthCheck, HealthProbe, ListenerId, VipAffinity, VipProtocol};

    /// One vip on `target`, whose cluster starts slowly within `slow_start` seconds.
    fn config(address: &str, target: VipTarget, slow_start: u64) -> Config {
        let files = crate::control::source::DiskFiles;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.toml");
        let text = format!("[[cluster]]\nname = \"a\"\nendpoints = []\nslow_start = \"{slow_start}s\"\n");
        std::fs::write(&path, text).unwrap();
        let mut config = crate::config::load(&path, &files, std::time::SystemTime::now()).unwrap().config;
        config.vips = vec![Vip {
            name: "v".into(),
            address: address.parse().unwrap(),
            protocol: VipProtocol::Udp,
            mode: VipMode::Dsr,
            target,
            affinity: VipAffinity::Source,
            drain: true,
        }];
        config
    }

    const CLUSTER: VipTarget = VipTarget::Cluster(ClusterId(0));

    /// `10.0.0.1:80*3 unhealthy drain age=5`
    fn endpoint(text: &str) -> EndpointNow {
        let mut words = text.split(' ');
        let (address, weight) = words.next().unwrap().split_once('*').unwrap();
        let (address, weight) = (address.parse().unwrap(), weight.parse().unwrap());
        let mut now = EndpointNow { address, weight, drain: false, healthy: true, age: None };
        for word in words {
            match word.split_once('=') {
                None if word == "drain" => now.drain = true,
                None if word == "unhealthy" => now.healthy = false,
                Some(("age", seconds)) => now.age = Some(Duration::from_secs(seconds.parse().unwrap())),
                _ => panic!("{word}"),
            }
        }
        now
    }

    /// `10.0.0.1:80*3`, with `!` behind those that are dead.
    fn shown(services: &[Service]) -> String {
        let Target::Backends { backends, .. } = &services[0].target else { panic!("local") };
        let text = |b: &Backend| format!("{}*{}{}", b.address, b.weight, if b.alive { "" } else { "!" });
        backends.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn backends_are_the_endpoints_of_the_vips_version_with_their_shares() {
        let cases = [
            ("no endpoints", 0, &[][..], ""),
            ("sorted", 0, &["10.0.0.2:80*1", "10.0.0.1:80*3"], "10.0.0.1:80*3 10.0.0.2:80*1"),
            ("the other version is left out", 0, &["[fd00::1]:80*1", "10.0.0.1:80*3"], "10.0.0.1:80*3"),
            ("one address of two names", 0, &["10.0.0.1:80*1", "10.0.0.1:80*3"], "10.0.0.1:80*4"),
            (
                "a drained one keeps its flows",
                0,
                &["10.0.0.1:80*1 drain", "10.0.0.2:80*1"],
                "10.0.0.1:80*0 10.0.0.2:80*1",
            ),
            ("a dead one does not", 0, &["10.0.0.1:80*1 unhealthy", "10.0.0.2:80*1"], "10.0.0.1:80*0! 10.0.0.2:80*1"),
            (
                "drained and dead",
                0,
                &["10.0.0.1:80*1 drain unhealthy", "10.0.0.2:80*1"],
                "10.0.0.1:80*0! 10.0.0.2:80*1",
            ),
            (
                "all are dead, so all are used",
                0,
                &["10.0.0.1:80*2 unhealthy", "10.0.0.2:80*1 unhealthy", "10.0.0.3:80*1 drain"],
                "10.0.0.1:80*2 10.0.0.2:80*1 10.0.0.3:80*0",
            ),
            (
                "the healthy ones of the other version do not count",
                0,
                &["10.0.0.1:80*2 unhealthy", "[fd00::1]:80*1"],
                "10.0.0.1:80*2",
            ),
            ("slow start: old ones are full", 10, &["10.0.0.1:80*2"], "10.0.0.1:80*20"),
            (
                "slow start in steps",
                10,
                &["10.0.0.1:80*2 age=0", "10.0.0.2:80*2 age=5", "10.0.0.3:80*2 age=9", "10.0.0.4:80*2 age=99"],
                "10.0.0.1:80*2 10.0.0.2:80*12 10.0.0.3:80*20 10.0.0.4:80*20",
            ),
            ("without slow start age does not count", 0, &["10.0.0.1:80*2 age=0"], "10.0.0.1:80*2"),
        ];
        for (name, slow_start, endpoints, expected) in cases {
            let config = config("192.0.2.1:80", CLUSTER, slow_start);
            let now: Vec<_> = endpoints.iter().map(|text| endpoint(text)).collect();
            assert_eq!(shown(&services(&config, &[now])), expected, "{name}");
        }
    }

    #[test]
    fn only_endpoints_that_have_to_have_the_address_are_asked_there() {
        let cases = [
            (VipMode::Nat, true, CLUSTER, 0),
            (VipMode::Dnat, true, CLUSTER, 0),
            (VipMode::Dsr, true, CLUSTER, 1),
            (VipMode::Ipip, true, CLUSTER, 1),
            (VipMode::Dsr, false, CLUSTER, 0),
            (VipMode::Dsr, true, VipTarget::Listener(ListenerId(0)), 0),
        ];
        for (mode, checked, target, expected) in cases {
            let mut config = config("192.0.2.1:80", target, 0);
            let check = HealthCheck {
                probe: HealthProbe::Tcp,
                tls: None,
                proxy_protocol: None,
                port: None,
                interval: Duration::ZERO,
                timeout: Duration::ZERO,
                healthy: 1,
                unhealthy: 1,
            };
            config.clusters[0].health_check = checked.then_some(check);
            config.vips[0].mode = mode;
            // Two ports of one address.
            config.vips.push(Vip { address: "192.0.2.1:443".parse().unwrap(), ..config.vips[0].clone() });
            let ways = vec![("192.0.2.1".parse().unwrap(), mode); expected];
            assert_eq!(asked_at(&config), [ways], "{mode:?} {checked}");
        }
    }

    #[test]
    fn a_service_says_what_its_vip_says() {
        let [service] = &services(&config("[2001:db8::1]:53", CLUSTER, 0), &[vec![]])[..] else { panic!() };
        assert_eq!((service.name.as_str(), service.protocol, service.drain), ("v", VipProtocol::Udp, true));
        let target = Target::Backends { mode: VipMode::Dsr, affinity: VipAffinity::Source, backends: vec![] };
        assert_eq!(service.target, target);
        let local = services(&config("192.0.2.1:53", VipTarget::Listener(ListenerId(0)), 0), &[vec![]]);
        assert_eq!(local[0].target, Target::Local);
    }

    #[test]
    fn the_next_step_of_a_slow_start_is_when_the_next_share_grows() {
        let cases: [(u64, &[&str], Option<u64>); 6] = [
            (100, &[], None),
            (100, &["10.0.0.1:80*1"], None),
            (100, &["10.0.0.1:80*1 age=100"], None),
            (100, &["10.0.0.1:80*1 age=0", "10.0.0.2:80*1 age=53"], Some(7)),
            (100, &["10.0.0.1:80*1 age=0 unhealthy", "10.0.0.2:80*1 age=4 drain"], None),
            (0, &["10.0.0.1:80*1 age=0"], None),
        ];
        for (slow_start, endpoints, seconds) in cases {
            let config = config("192.0.2.1:80", CLUSTER, slow_start);
            let now: Vec<_> = endpoints.iter().map(|text| endpoint(text)).collect();
            assert_eq!(next_step(&config, &[now]), seconds.map(Duration::from_secs), "{slow_start} {endpoints:?}");
        }
    }
}
