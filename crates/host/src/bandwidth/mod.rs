//! The bandwidth of storage pools and networks, and that guests share it as they are promised.
//!
//! What each guest is promised is taken and given back where it is for processors ([`crate::shares`]). Four times a second a thread
//! ([`Keeper`]) looks in the memory that each guest's process shares with the daemon ([`vmm::flows`]) what its devices did on each pool and
//! network, and for how long they were kept waiting; from that follows what each may do next ([`rule`]), which is written there, too. Nobody is
//! asked, and nobody is woken.

mod keep;
mod look;
mod rule;

pub use keep::{Bandwidth, Keeper};

use api::{Name, Way};

use crate::shares::Place;

/// What a pool is called by guests' processes.
pub fn of_pool(name: &Name) -> String {
    format!("pool/{name}")
}

/// What a network is called by guests' processes.
pub fn of_network(name: &Name) -> String {
    format!("network/{name}")
}

/// The ways of a place, and what each is called by guests' processes.
fn ways(place: &Place) -> Vec<(Way, String)> {
    match place {
        Place::Pool(name) => vec![(Way::All, of_pool(name))],
        Place::Network(name) => {
            let name = of_network(name);
            vec![(Way::Receive, format!("{name}/receive")), (Way::Send, format!("{name}/send"))]
        }
    }
}
