//! The networks behind a machine's cards: taps that are there, and the user-mode network, which the program `passt` is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

use network::definition::{Forward, Protocol};
use network::user::{self, Passt};
use vmm::virtio::net::{Backend, Net, Stream, Tap};

use crate::cli::limits::CardWords;
use crate::cli::options::{NetOption, PortForward};
use crate::failure::{Failure, Result};

/// Network cards, and the programs behind them, which must live as long.
#[derive(Default)]
pub struct Network {
    /// One a network.
    pub cards: Vec<Net>,
    /// Held only to be dropped.
    pub programs: Vec<Passt>,
}

/// Makes the cards a person asked for; one on a user-mode network if nothing was asked, and passt is there.
pub fn connect(options: &[NetOption]) -> Result<Network> {
    let default = [NetOption::User { forwards: Vec::new(), limits: CardWords::default() }];
    if options.is_empty() && !passt_is_there() {
        eprintln!("tessera: the guest has no network, because the program passt is not installed");
        return Ok(Network::default());
    }
    let wanted = if options.is_empty() { &default[..] } else { options };
    let mut network = Network::default();
    for (number, option) in wanted.iter().enumerate() {
        let (backend, limits): (Box<dyn Backend>, _) = match option {
            NetOption::None => continue,
            NetOption::User { forwards, limits } => {
                let (stream, passt) = user_network(forwards)?;
                network.programs.push(passt);
                (Box::new(stream), limits)
            }
            NetOption::Named { name, .. } => {
                return Err(Failure::input(format!(
                    "--net network={name}: only guests of a host are on its networks: tessera vm create"
                )));
            }
            NetOption::Tap { name, limits } => {
                let told =
                    |error: io::Error| Failure::input(format!("--net tap={name}: {}", why_no_tap(&error)));
                (Box::new(Tap::open(name).map_err(told)?), limits)
            }
        };
        let card = Net::new(address(number, option), backend);
        card.limiter().set(&limits.limits()?);
        network.cards.push(card);
    }
    Ok(network)
}

fn why_no_tap(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another program uses it".into(),
        Some(libc::EINVAL) => "it is no tap device, or one for several queues".into(),
        _ => error.to_string(),
    }
}

/// A locally administered address that stays the same from run to run. On a tap it must be no other guest's: it comes from
/// the tap's name and this machine's own identity. Behind passt nobody else sees it.
fn address(number: usize, option: &NetOption) -> [u8; 6] {
    let mut hasher = DefaultHasher::new();
    number.hash(&mut hasher);
    if let NetOption::Tap { name, .. } = option {
        name.hash(&mut hasher);
        std::fs::read("/etc/machine-id").unwrap_or_default().hash(&mut hasher);
    }
    let hash = hasher.finish().to_be_bytes();
    [0x52, 0x54, hash[0], hash[1], hash[2], hash[3]]
}

fn passt_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("passt").is_file())
}

/// Starts passt; returns the machine's end of its socket when it is ready.
fn user_network(forwards: &[PortForward]) -> Result<(Stream, Passt)> {
    let forwards: Vec<_> = forwards.iter().map(forward).collect();
    let (socket, passt) = user::start(&forwards).map_err(|error| match error {
        network::Error::Definition(faults) => {
            let told: Vec<_> =
                faults.iter().map(|fault| format!("port {} {}", fault.value, fault.detail)).collect();
            Failure::input(format!("--net user: {}", told.join("; ")))
        }
        network::Error::Missing { .. } | network::Error::Program { .. } => {
            Failure::input(format!("--net user: {error}"))
        }
        error => Failure::internal(format!("the user network: {error}")),
    })?;
    let stream = Stream::new(socket, user::MTU)
        .map_err(|error| Failure::internal(format!("the user network: {error}")))?;
    Ok((stream, passt))
}

fn forward(forward: &PortForward) -> Forward {
    Forward {
        protocol: Protocol::Tcp,
        host_address: forward.address,
        host_port: forward.host,
        guest_address: None,
        guest_port: forward.guest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_local_stable_and_differ() {
        let limits = CardWords::default;
        let user = NetOption::User { forwards: Vec::new(), limits: limits() };
        let tap = |name: &str| NetOption::Tap { name: name.into(), limits: limits() };
        let all = [address(0, &user), address(1, &user), address(0, &tap("tap0")), address(0, &tap("tap1"))];
        for (i, mac) in all.iter().enumerate() {
            assert_eq!(mac[0] & 3, 2, "local, and one station's");
            assert!(!all[i + 1..].contains(mac));
        }
        assert_eq!(address(0, &tap("tap0")), all[2]);
    }
}
