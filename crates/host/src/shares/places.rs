//! Storage pools and networks, whose bandwidth guests share: what each carries, and what is promised of it.

use std::collections::BTreeMap;
use std::fmt;

use api::{BandwidthShare, Disk, DiskSource, Invalid, Name, Network, Problem, Size, VmDefinition};

use super::admission::{self, Resource};
use super::promises::{Shares, State};

/// Something whose bandwidth guests share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A storage pool of this name.
    Pool(Name),
    /// A network of this name.
    Network(Name),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(name) => write!(f, "the pool {name}"),
            Self::Network(name) => write!(f, "the network {name}"),
        }
    }
}

impl Place {
    /// Its name among those of its kind.
    pub fn name(&self) -> &Name {
        match self {
            Self::Pool(name) | Self::Network(name) => name,
        }
    }

    /// What a guest with these two shares is promised of it.
    pub fn share<'a>(&self, disks: &'a BandwidthShare, networks: &'a BandwidthShare) -> &'a BandwidthShare {
        match self {
            Self::Pool(_) => disks,
            Self::Network(_) => networks,
        }
    }

    /// The field of whatever says what is promised of it.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Pool(_) => "/disk_share",
            Self::Network(_) => "/network_share",
        }
    }
}

/// How much a pool or a network carries, as far as somebody has said it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carries {
    /// Bytes each second; of a network each way.
    pub bandwidth: Option<Size>,
    /// Operations each second, of a pool.
    pub operations: Option<u64>,
}

/// The pool that a disk is on; nothing of a file of the host's.
pub fn pool_of(disk: &Disk) -> Option<Name> {
    match &disk.source {
        DiskSource::Image(_) | DiskSource::Size(_) => Some(api::default_pool()),
        DiskSource::Volume(volume) => Some(volume.pool.clone()),
        DiskSource::File(_) => None,
    }
}

/// The pools and networks that a guest uses, each once. Files of the host's that are disks, user-mode networks and taps without a name
/// belong to none.
pub fn of(definition: &VmDefinition) -> Vec<Place> {
    let pools = definition.disks.iter().filter_map(pool_of).map(Place::Pool);
    let networks = definition.nics.iter().filter_map(|nic| match &nic.network {
        Network::Named(name) => Some(Place::Network(name.clone())),
        Network::User | Network::Tap(_) => None,
    });
    let mut places: Vec<_> = pools.chain(networks).collect();
    places.sort();
    places.dedup();
    places
}

/// What a guest has reserved of each pool and network that it uses.
pub(super) fn reserves(definition: &VmDefinition) -> BTreeMap<Place, Size> {
    let reserved = |place: Place| {
        let reserve = place.share(&definition.disk_share, &definition.network_share).reserve;
        (place, reserve)
    };
    of(definition).into_iter().map(reserved).collect()
}

/// What all guests and groups have reserved of a place.
fn reserved(state: &State, place: &Place) -> Size {
    // As much as anybody can say is more than anything carries.
    Size(admission::reserved(state, &Resource::Place(place.clone())) as u64)
}

/// What is wrong with a guest's reserves whatever others have.
pub(super) fn check(state: &State, definition: &VmDefinition) -> Vec<Invalid> {
    let wrong = reserves(definition).into_iter().filter_map(|(place, reserve)| {
        let bandwidth = state.places.get(&place)?.bandwidth.filter(|bandwidth| reserve > *bandwidth)?;
        let detail =
            format!("{place} carries {bandwidth}/s: at most {} can be reserved", bandwidth.at_most());
        Some(Invalid::new(format!("{}/reserve", place.field()), reserve.0, detail))
    });
    wrong.collect()
}

impl Shares {
    /// A place carries so much from now on; gives what it did before.
    ///
    /// # Errors
    /// If guests that run have reserved more of it: then nothing has changed.
    pub fn set_place(&self, place: Place, carries: Carries) -> Result<Carries, Problem> {
        self.change(|state| {
            let reserved = reserved(state, &place);
            if let Some(bandwidth) = carries.bandwidth.filter(|bandwidth| *bandwidth < reserved) {
                let detail = format!(
                    "guests that run have reserved {reserved}/s of {place}, and {bandwidth}/s is less: give at least {}",
                    reserved.at_least()
                );
                return Err(Problem::conflict_of(Invalid::new("/bandwidth", bandwidth.0, detail)));
            }
            Ok(state.places.insert(place, carries).unwrap_or_default())
        })
    }

    /// A place carries what it did before a change of which nothing came; or, at the start of a daemon, what it always did.
    pub fn load_place(&self, place: Place, carries: Carries) {
        self.change(|state| state.places.insert(place, carries));
    }

    /// There is no such place any more.
    pub fn forget_place(&self, place: &Place) {
        self.change(|state| state.places.remove(place));
    }

    /// All places of which somebody has said what they carry.
    pub fn places(&self) -> BTreeMap<Place, Carries> {
        let state = self.state();
        let said = state.places.iter().filter(|(_, carries)| **carries != Carries::default());
        said.map(|(place, carries)| (place.clone(), *carries)).collect()
    }

    /// What a place carries, and what all guests that run and their groups have reserved of it.
    pub fn of_place(&self, place: &Place) -> (Carries, Size) {
        let state = self.state();
        (state.places.get(place).copied().unwrap_or_default(), reserved(&state, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Id;

    const MIB: u64 = 1 << 20;

    fn pool() -> Place {
        Place::Pool(api::default_pool())
    }

    fn carries(mib: u64) -> Carries {
        Carries { bandwidth: Some(Size(mib * MIB)), operations: None }
    }

    /// A guest with two disks of its own and a card on `lan`.
    fn guest(disks: u64, networks: u64) -> VmDefinition {
        let definition = serde_json::json!({
            "name": "a", "disks": [{ "size": "1G" }, { "size": "1G" }, { "file": "/dev/x" }],
            "nics": [{}, { "network": { "named": "lan" } }],
            "disk_share": { "reserve": disks * MIB }, "network_share": { "reserve": networks * MIB },
        });
        serde_json::from_value(definition).unwrap()
    }

    #[test]
    fn a_guest_uses_each_pool_and_network_once_and_what_is_the_hosts_belongs_to_none() {
        assert_eq!(of(&guest(0, 0)), [pool(), Place::Network("lan".parse().unwrap())]);
    }

    #[test]
    fn no_more_is_promised_of_a_place_than_it_carries() {
        let (shares, ids) = (Shares::default(), [Id::new(), Id::new()]);
        shares.set_place(pool(), carries(8)).unwrap();
        shares.promise(ids[0], &guest(6, 100)).unwrap();
        let refused = shares.promise(ids[1], &guest(4, 0)).unwrap_err();
        assert_eq!((refused.status, refused.errors[0].pointer.as_str()), (409, "/disk_share/reserve"));
        assert_eq!(
            refused.detail,
            "a: the pool default has 2M/s left to promise, and 4M/s is asked for: 2M/s too much; 2M/s would fit"
        );
        shares.promise(ids[1], &guest(2, 0)).unwrap();
        assert_eq!(shares.of_place(&pool()), (carries(8), Size(8 * MIB)));

        // What is promised is kept: a place does not carry less, and a change that is not done yet keeps both.
        let refused = shares.set_place(pool(), carries(7)).unwrap_err();
        assert_eq!(
            refused.detail,
            "guests that run have reserved 8M/s of the pool default, and 7M/s is less: give at least 8M"
        );
        shares.settle(ids[0], &guest(6, 0), Some(1));
        shares.promise_besides(ids[0], &guest(1, 0)).unwrap();
        assert_eq!(shares.of_place(&pool()).1, Size(8 * MIB));
        shares.settle(ids[0], &guest(1, 0), Some(1));
        assert_eq!(shares.of_place(&pool()).1, Size(3 * MIB));
        shares.give_back(ids[1]);
        shares.set_place(pool(), Carries::default()).unwrap();
        assert!(shares.places().is_empty());
        shares.promise(ids[1], &guest(1000, 0)).unwrap();
    }

    #[test]
    fn what_a_place_never_carries_is_refused_before_anybody_starts() {
        let shares = Shares::default();
        shares.load_place(Place::Network("lan".parse().unwrap()), carries(10));
        let said = |definition: &VmDefinition| {
            let wrong = shares.check(definition);
            wrong.into_iter().map(|wrong| (wrong.pointer, wrong.detail)).collect::<Vec<_>>()
        };
        assert_eq!(
            said(&guest(20, 11)),
            [(
                "/network_share/reserve".to_owned(),
                "the network lan carries 10M/s: at most 10M can be reserved".to_owned()
            )]
        );
        assert!(said(&guest(20, 10)).is_empty());
    }
}
