//! The machine's own cards.

use crate::world::{in_own_namespace, run};

#[test]
fn cards_are_told_with_what_they_are_and_where_they_belong() {
    in_own_namespace(|| {
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        ip("link add uplink type veth peer name other");
        ip("link add br0 type bridge");
        ip("link set uplink master br0 mtu 1400 address 02:00:00:00:00:01 up");
        ip("link set other up");
        ip("link set br0 up");
        ip("address add 192.0.2.1/24 dev br0");
        ip("tuntap add dev guest0 mode tap");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cards = runtime.block_on(network::cards()).unwrap();
        let names: Vec<_> = cards.iter().map(|card| (card.name.as_str(), card.kind.as_str())).collect();
        assert_eq!(names, [("br0", "bridge"), ("other", "veth"), ("uplink", "veth")]);
        let uplink = &cards[2];
        assert_eq!(
            (uplink.mac.as_str(), uplink.mtu, uplink.state.as_str()),
            ("02:00:00:00:00:01", 1400, "up")
        );
        assert_eq!(uplink.part_of.as_deref(), Some("br0"));
        assert!(cards[0].addresses.contains(&"192.0.2.1/24".parse().unwrap()), "{:?}", cards[0]);
    });
}
