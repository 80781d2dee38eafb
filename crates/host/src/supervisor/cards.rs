//! What a guest's network cards are plugged into.

use std::path::PathBuf;

use api::{Network, Nic, PortForward, VmDefinition};
use network::definition::{Forward, Protocol};
use network::user::{self, Passt};
use vmm::control::{Cable, NetSpec};
use vmm::virtio::net::Tap;

use super::limits;
use super::machine::{Files, MachineError};
use crate::wires::Plug;

/// Opens the host's end of each card, and starts the programs behind them.
///
/// # Errors
/// If a tap or a port is not there to be had, or passt does not start.
pub fn plug_in(
    definition: &VmDefinition,
    plugs: Vec<Option<Plug>>,
    files: &mut Files,
) -> Result<(Vec<NetSpec>, Vec<Passt>), MachineError> {
    let mut programs = Vec::new();
    let mut nets = Vec::new();
    let mut plugs = plugs.into_iter();
    for (number, nic) in definition.nics.iter().enumerate() {
        let (net, program) = plug_in_one(number, nic, plugs.next().flatten(), files)?;
        nets.push(net);
        programs.extend(program);
    }
    Ok((nets, programs))
}

/// The same for one card, which is the guest's `number`th.
///
/// # Errors
/// If its tap or its port is not there to be had, or passt does not start.
pub fn plug_in_one(
    number: usize,
    nic: &Nic,
    plug: Option<Plug>,
    files: &mut Files,
) -> Result<(NetSpec, Option<Passt>), MachineError> {
    let mut program = None;
    let failed = |why: String| MachineError::Host(format!("network card {number}: {why}"));
    let mac = nic.mac_bytes().ok_or_else(|| failed("it has no hardware address".into()))?;
    let cable = match &nic.network {
        Network::User => {
            let (socket, passt) = user::start(&forwards(nic)).map_err(|error| failed(told(error)))?;
            program = Some(passt);
            Cable::Stream { socket: files.add(socket), mtu: user::MTU }
        }
        Network::Tap(name) => {
            let (what, path) = (format!("network card {number}: the tap device"), PathBuf::from(name));
            let told = |error| MachineError::Open { what, path, error };
            Cable::Tap(files.add(Tap::attach(name).map_err(told)?))
        }
        Network::Named(name) => match plug {
            Some(Plug::Tap(tap)) => Cable::Tap(files.add(tap)),
            Some(Plug::User(mut leading)) => {
                leading.extend(forwards(nic));
                let (socket, passt) = user::start(&leading).map_err(|error| failed(told(error)))?;
                program = Some(passt);
                Cable::Stream { socket: files.add(socket), mtu: user::MTU }
            }
            None => return Err(failed(format!("there is no network {name}"))),
        },
    };
    Ok((NetSpec { mac, cable, limits: limits::of_card(nic), alias: None }, program))
}

/// What a card is called by a guest's process.
pub fn card_name(nic: &Nic) -> String {
    format!("net-{}", nic.mac.as_deref().unwrap_or_default())
}

fn told(error: network::Error) -> String {
    match error {
        network::Error::Definition(faults) => {
            let told: Vec<_> =
                faults.iter().map(|fault| format!("port {} {}", fault.value, fault.detail)).collect();
            told.join("; ")
        }
        other => other.to_string(),
    }
}

fn forwards(nic: &Nic) -> Vec<Forward> {
    let forward = |forward: &PortForward| Forward {
        protocol: match forward.protocol {
            api::Protocol::Tcp => Protocol::Tcp,
            api::Protocol::Udp => Protocol::Udp,
        },
        host_address: forward.address.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()),
        host_port: forward.host,
        guest_address: None,
        guest_port: forward.guest,
    };
    nic.forwards.iter().map(forward).collect()
}
