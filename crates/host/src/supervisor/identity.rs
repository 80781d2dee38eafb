//! How a guest that goes on in another one's memory becomes one of its own.
//!
//! Its machine is another one from the start: hardware addresses, disks, generation id. Its system learns that through its agent: one script
//! gives its cards their addresses, and until then they stand for it where the host knows both addresses (`vmm::virtio::net`); another one sets its
//! name, machine id and SSH host keys, and has it ask for those IP addresses that the host does not give.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::{Id, Name, Problem, VmDefinition};
use network::definition::{Ipv4, NetworkKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vmm::state::MachineState;
use vmm::virtio::net::Alias;

use super::inside::{self, Pace};
use super::turns::{self, Turn};
use super::{Shared, random};

/// What the script may take: a system asks for addresses in it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an agent may take to answer after its guest went on.
const AGENT: Duration = Duration::from_secs(20);
/// So long the others wait at most for one that goes on and is asked nothing.
const AWAKE: Duration = Duration::from_millis(50);
/// An agent that is slow because others are at work is asked again soon, one that is not there ever more rarely.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LAST_PAUSE: Duration = Duration::from_secs(600);
/// For what nobody waits: many that begin at once would take each other's time with every look.
pub(super) const UNWATCHED: Pace =
    Pace { start: AGENT, first: Duration::from_millis(250), last: Duration::from_secs(2) };
/// For what somebody may wait for.
const SOON: Pace = Pace { start: AGENT, first: Duration::from_millis(100), last: Duration::from_secs(1) };
/// Stands for an address that the host does not give.
const NOTHING: &str = "-";
const ADDRESSES: &str =
    concat!(include_str!("inside.sh"), include_str!("random.sh"), include_str!("addresses.sh"));
const NAMES: &str = concat!(include_str!("inside.sh"), include_str!("identity.sh"));

/// What a guest's system still is of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// The guest in whose memory it goes on.
    pub of: Name,
    /// For each network card the hardware address that the system knows, and the one that the card has.
    pub cards: Vec<(String, String)>,
    /// For each network card the network in which the system knows an address, and that address.
    #[serde(default)]
    pub addresses: Vec<Option<(Name, Ipv4Addr)>>,
}

/// The address in a network that a guest's system knows of a card, if the host has given it one.
fn known(nic: &api::Nic) -> Option<(Name, Ipv4Addr)> {
    match (&nic.network, nic.address) {
        (api::Network::Named(network), Some(address)) => Some((network.clone(), address)),
        _ => None,
    }
}

/// What a guest has come to that becomes one of its own.
#[derive(Debug)]
pub enum Became {
    /// Its system knows the addresses of its cards.
    Addressed,
    /// That is the end: its system is one of its own, or why it is not.
    Itself(Result<(), Problem>),
}

impl Twin {
    /// Of a guest `of` with a machine, for one with another machine whose cards are in the same order.
    pub fn new(of: Name, was: &VmDefinition, is: &VmDefinition) -> Self {
        let mac = |nic: &api::Nic| nic.mac.clone().unwrap_or_default();
        Self {
            of,
            cards: was.nics.iter().map(mac).zip(is.nics.iter().map(mac)).collect(),
            addresses: was.nics.iter().map(known).collect(),
        }
    }

    /// What the system of a guest, which still is this of another one, is when it goes on in the machine of yet another one, which is `next` of that machine.
    pub fn goes_on_as(&self, mut next: Self) -> Self {
        next.of = self.of.clone();
        for ((mac, _), address) in next.cards.iter_mut().zip(&mut next.addresses) {
            // A card that came later it knows as what it was.
            if let Some(number) = self.cards.iter().position(|(_, is)| is == mac) {
                mac.clone_from(&self.cards[number].0);
                *address = self.addresses.get(number).cloned().flatten();
            }
        }
        next
    }

    /// Its system, in a guest with this machine, has the addresses of its cards and not yet the rest.
    pub fn has_addresses(&mut self, definition: &VmDefinition) {
        for (was, is) in &mut self.cards {
            was.clone_from(is);
        }
        self.addresses = definition.nics.iter().map(known).collect();
    }

    /// For each card of a guest with this machine the addresses that its system knows, as far as the card can stand for it under its own until the system
    /// has been told.
    pub fn aliases(&self, definition: &VmDefinition) -> Vec<Option<Alias>> {
        let alias = |(number, nic): (usize, &api::Nic)| {
            let (mac, _) = self.cards.get(number)?;
            let (network, ipv4) = self.addresses.get(number)?.as_ref()?;
            // In another network it would ask for another one's router.
            let same = matches!(&nic.network, api::Network::Named(name) if name == network);
            let is_own = nic.mac.as_ref() == Some(mac) && nic.address == Some(*ipv4);
            let mac = api::Nic { mac: Some(mac.clone()), ..nic.clone() }.mac_bytes()?;
            (same && !is_own).then_some(Alias { mac, ipv4: *ipv4, own_ipv4: nic.address? })
        };
        definition.nics.iter().enumerate().map(alias).collect()
    }

    /// Whether somebody may wait until the system of a guest with this machine knows an address that the host gives it.
    fn is_waited_for(&self, definition: &VmDefinition) -> bool {
        let mut cards = definition.nics.iter().zip(self.aliases(definition));
        cards.any(|(nic, alias)| nic.address.is_some() && alias.is_none())
    }

    /// A saved machine's state with the devices under the names that they have now: cards are called after their addresses.
    ///
    /// # Errors
    /// If it is none.
    pub fn rename(&self, state: Value) -> Result<Value, String> {
        let mut state = MachineState::from_json(state).map_err(|error| error.to_string())?;
        for device in &mut state.devices {
            let card = self.cards.iter().find(|(was, _)| device.name == format!("net-{was}"));
            if let Some((_, is)) = card {
                device.name = format!("net-{is}");
            }
        }
        state.to_json().map_err(|error| error.to_string())
    }
}

/// How long it takes until it is tried again what has failed so often.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => (FIRST_PAUSE * 2u32.saturating_pow(failures - 1)).min(LAST_PAUSE),
    }
}

/// Has the system in a guest become one of its own, after a pause if that has failed so often; who asks hears what it has come to. Where nobody wants
/// that any more before it is begun, it is not.
pub fn take(
    shared: &Arc<Shared>,
    id: Id,
    definition: &VmDefinition,
    twin: &Twin,
    turn: Option<Turn>,
    failures: u32,
) -> mpsc::Receiver<Became> {
    let (told, hears) = mpsc::channel(2);
    let (shared, twin, definition) = (Arc::clone(shared), twin.clone(), definition.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(pause(failures)) => {}
            () = told.closed() => return,
        }
        let result = tell(&shared, id, &definition, &twin, turn, &told).await;
        // Nobody may wait for it.
        let _ = told.send(Became::Itself(result)).await;
    });
    hears
}

/// What the script is told of each card: the hardware address that the system knows and the one that the card has, if the host gives it one its
/// IPv4 address and its router, whether it may send from whatever address, and the IPv4 address that the system knows.
async fn cards(shared: &Shared, definition: &VmDefinition, twin: &Twin) -> Vec<String> {
    let mut words = Vec::new();
    for (card, (nic, (was, is))) in definition.nics.iter().zip(&twin.cards).enumerate() {
        let [mut address, mut router, mut other] = [NOTHING, NOTHING, NOTHING].map(str::to_owned);
        if let (api::Network::Named(network), Some(own)) = (&nic.network, nic.address)
            && let Some((network, ip)) = addressed(shared, network).await
        {
            address = format!("{own}/{}", ip.subnet.prefix_len());
            if network != NetworkKind::Isolated {
                router = ip.gateway().to_string();
            }
        }
        if let Some(Some((network, known))) = twin.addresses.get(card)
            && let Some((_, ip)) = addressed(shared, network).await
        {
            other = format!("{known}/{}", ip.subnet.prefix_len());
        }
        let any = if nic.allow_spoofing { "yes" } else { "no" };
        words.extend([was.clone(), is.clone(), address, router, any.to_owned(), other]);
    }
    words
}

/// What kind of network one is that gives addresses, and which.
async fn addressed(shared: &Shared, network: &Name) -> Option<(NetworkKind, Ipv4)> {
    let network = shared.wires.definition(network.as_str()).await?;
    let ip = network.ipv4.filter(|ip| ip.dhcp)?;
    Some((network.kind, ip))
}

/// A script without what only people need: an agent reads it letter by letter, a guest on the software processor for milliseconds. Nothing in
/// our scripts has lines that have to keep the blanks before them.
fn terse(script: &str) -> String {
    let lines = script.lines().map(str::trim_start);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

async fn tell(
    shared: &Shared,
    id: Id,
    definition: &VmDefinition,
    twin: &Twin,
    turn: Option<Turn>,
    told: &mpsc::Sender<Became>,
) -> Result<(), Problem> {
    let mut words = vec![random::secret()?];
    words.extend(cards(shared, definition, twin).await);
    let (turn, pace) = if twin.is_waited_for(definition) {
        (turn, SOON)
    } else {
        // Its cards stand for it: it can be spoken to from the start.
        let _ = tokio::time::timeout(AWAKE, turns::rests(shared, id)).await;
        drop(turn);
        (shared.turns.later().await, UNWATCHED)
    };
    let interfaces = within(turn, shared, id, script(shared, id, ADDRESSES, words, pace)).await?;
    // Nobody may wait for it.
    let _ = told.send(Became::Addressed).await;
    // Nobody waits for names and keys: where many go on at once, the others' addresses come first.
    let turn = shared.turns.later().await;
    // Unique, as a machine id has to be (machine-id(5)), and the guest's own.
    let machine = id.to_string().replace('-', "");
    let host_name = definition.cloud_init.as_ref().and_then(|config| config.hostname.clone());
    let name = host_name.unwrap_or_else(|| definition.name.to_string());
    let mut words = vec![name, machine];
    words.extend(interfaces.split_whitespace().map(str::to_owned));
    within(turn, shared, id, script(shared, id, NAMES, words, UNWATCHED)).await.map(drop)
}

/// Does something in a turn, which ends when the guest rests: the rest is waiting until somebody looks. Beside hundreds of others that are not quite idle either
/// it would take as many times as long, and all who wait for their turns with it.
async fn within<T>(turn: Option<Turn>, shared: &Shared, id: Id, work: impl Future<Output = T>) -> T {
    let hurry = shared.shares.hurry(id);
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        _ = tokio::time::timeout(turns::MOST, turns::rests(shared, id)) => drop((turn, hurry)),
    }
    work.await
}

/// Has a script run in a guest with these words. Gives what it says.
pub(super) async fn script(
    shared: &Shared,
    id: Id,
    text: &str,
    words: Vec<String>,
    pace: Pace,
) -> Result<String, Problem> {
    let before = ["-c".to_owned(), terse(text), "identity".to_owned()];
    let words = before.into_iter().chain(words).collect::<Vec<_>>();
    let order = json!({ "path": "/bin/sh", "arg": words, "capture-output": true });
    let done = inside::run(shared, id, order, PATIENCE, pace).await?.result(api::Encoding::Text)?;
    match done.exit_status {
        Some(0) => Ok(done.stdout),
        _ => Err(Problem::conflict(done.stderr.trim().chars().take(500).collect::<String>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_told_without_what_only_people_need_and_are_scripts_still() {
        for script in [ADDRESSES, NAMES] {
            let told = terse(script);
            assert!(told.len() * 3 < script.len() * 2, "{} of {}", told.len(), script.len());
            assert!(!told.contains("\n#") && !told.contains("\n "));
            let checked = std::process::Command::new("sh").args(["-n", "-c", &told]).status().unwrap();
            assert!(checked.success());
        }
    }

    #[test]
    fn what_has_failed_is_tried_again_ever_more_rarely() {
        let seconds = [0, 1, 2, 3, 6, 7, 100].map(|failures| pause(failures).as_secs());
        assert_eq!(seconds, [0, 15, 30, 60, 480, 600, 600]);
    }

    #[test]
    fn a_twin_that_an_older_daemon_wrote_down_knows_no_addresses() {
        let told = json!({ "of": "a", "cards": [["52:54:00:00:00:01", "52:54:00:00:00:02"]] });
        let twin: Twin = serde_json::from_value(told).unwrap();
        assert!(twin.addresses.is_empty());
    }

    #[test]
    fn one_made_of_a_twin_that_is_not_itself_yet_is_still_who_that_one_was() {
        let machine = |cards: &[(&str, &str)]| -> VmDefinition {
            let card = |(mac, address): &(&str, &str)| json!({ "network": { "named": "net" }, "mac": mac, "address": address });
            let cards: Vec<_> = cards.iter().map(card).collect();
            serde_json::from_value(json!({ "name": "a", "nics": cards })).unwrap()
        };
        let mac = |last: u8| format!("52:54:00:00:00:{last:02x}");
        let (a, b, c, late) = (mac(1), mac(2), mac(3), mac(9));
        let first =
            Twin::new("a".parse().unwrap(), &machine(&[(&a, "10.0.0.1")]), &machine(&[(&b, "10.0.0.2")]));
        // It got a card since, before the other one.
        let was = machine(&[(&late, "10.0.0.9"), (&b, "10.0.0.2")]);
        let is = machine(&[(&mac(10), "10.0.0.10"), (&c, "10.0.0.3")]);
        let next = first.goes_on_as(Twin::new("b".parse().unwrap(), &was, &is));
        assert_eq!(next.of.as_str(), "a");
        assert_eq!(next.cards, [(late, mac(10)), (a, c)]);
        let known: Vec<_> = next.addresses.iter().flatten().map(|(_, address)| address.to_string()).collect();
        assert_eq!(known, ["10.0.0.9", "10.0.0.1"]);
    }

    #[test]
    fn one_made_of_a_twin_that_has_addresses_and_no_name_looks_for_those() {
        let machine = |mac: &str, address: &str| -> VmDefinition {
            let card = json!({ "network": { "named": "net" }, "mac": mac, "address": address });
            serde_json::from_value(json!({ "name": "a", "nics": [card] })).unwrap()
        };
        let first = machine("52:54:00:00:00:01", "10.0.0.1");
        let second = machine("52:54:00:00:00:02", "10.0.0.2");
        let third = machine("52:54:00:00:00:03", "10.0.0.3");
        let mut twin = Twin::new("a".parse().unwrap(), &first, &second);
        assert!(twin.aliases(&second)[0].is_some());
        twin.has_addresses(&second);
        assert!(twin.aliases(&second)[0].is_none(), "the card need not stand for it any more");
        let next = twin.goes_on_as(Twin::new("b".parse().unwrap(), &second, &third));
        assert_eq!(next.of.as_str(), "a", "its name is that one's still");
        assert_eq!(next, Twin { of: next.of.clone(), ..Twin::new("b".parse().unwrap(), &second, &third) });
    }
}
