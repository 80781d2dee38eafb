use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::feature;
use vmm::virtio::rng::Rng;

use crate::driver::Driver;
use crate::rig::Rig;

#[test]
fn every_request_is_filled_whatever_the_driver_says_of_kicks() {
    for features in [0, feature::EVENT_IDX] {
        let rig = Rig::new(vec![Box::new(Rng::default())]);
        let mut driver = Driver::start(&rig, 1, features);
        let mut last = [0u8; 64];
        for _ in 0..200 {
            let from = driver.next(0);
            driver.add(0, &[(0x10_0000, 64, true)]);
            driver.kick_if_wanted(0, from);
            assert_eq!(driver.used(0).1, 64);
            let mut now = [0u8; 64];
            driver.memory().read_slice(&mut now, GuestAddress(0x10_0000)).unwrap();
            assert_ne!(now, last);
            last = now;
        }
    }
}

#[test]
fn a_request_of_many_pieces_is_filled_to_its_end_or_to_the_most_at_once() {
    let rig = Rig::new(vec![Box::new(Rng::default())]);
    let mut driver = Driver::start(&rig, 1, 0);
    let piece = |n: u64, len| (0x10_0000 + n * 0x1_0000, len, true);
    for (pieces, wanted) in [
        (vec![piece(0, 300), piece(1, 0), piece(2, 700)], 1000),
        (vec![piece(0, 4000), piece(1, 5000), piece(2, 1)], 4096),
        (vec![piece(0, u32::MAX >> 12)], 4096),
        (vec![piece(0, 0)], 0),
        (vec![(0x10_0000, 64, false)], 0),
    ] {
        driver.add(0, &pieces);
        driver.kick(0);
        assert_eq!(driver.used(0).1, wanted, "{pieces:?}");
    }
    let mut end = [0u8; 64];
    driver.memory().read_slice(&mut end, GuestAddress(0x12_0000 + 700 - 64)).unwrap();
    assert_ne!(end, [0; 64]);
}
