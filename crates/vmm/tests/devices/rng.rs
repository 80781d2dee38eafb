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
