//! Network cards.

use std::path::Path;

use api::HostNic;

use super::{SYS, text};

/// The machine's cards, by name; none if the kernel does not tell.
pub async fn nics() -> Vec<HostNic> {
    let cards = network::cards().await.unwrap_or_else(|error| {
        tracing::warn!("{error}");
        Vec::new()
    });
    let nic = |card: network::Card| HostNic {
        speed: speed(Path::new(SYS), &card),
        name: card.name,
        kind: card.kind,
        mac: card.mac,
        state: card.state,
        mtu: card.mtu,
        addresses: card.addresses.iter().map(ToString::to_string).collect(),
        bridge: card.part_of,
    };
    cards.into_iter().map(nic).collect()
}

/// How fast a card is, Mbit/s (Documentation/ABI/testing/sysfs-class-net). What is mounted may tell of another network namespace.
fn speed(sys: &Path, card: &network::Card) -> Option<u32> {
    let folder = sys.join("class/net").join(&card.name);
    let same =
        text(folder.join("ifindex")) == card.index.to_string() && text(folder.join("address")) == card.mac;
    // One that is down has -1, or cannot be read.
    same.then(|| text(folder.join("speed")).parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_card_is_as_fast_as_it_says() {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("class/net/eth0");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ifindex"), "3\n").unwrap();
        fs::write(folder.join("address"), "02:00:00:00:00:01\n").unwrap();
        let card = |index| network::Card {
            index,
            name: "eth0".into(),
            kind: String::new(),
            mac: "02:00:00:00:00:01".into(),
            state: "up".into(),
            mtu: 1500,
            part_of: None,
            addresses: Vec::new(),
        };
        for (said, meant) in [("10000\n", Some(10000)), ("-1\n", None), ("", None)] {
            fs::write(folder.join("speed"), said).unwrap();
            assert_eq!(speed(sys.path(), &card(3)), meant);
        }
        fs::write(folder.join("speed"), "1000").unwrap();
        assert_eq!(speed(sys.path(), &card(4)), None, "another one of that name");
    }
}
