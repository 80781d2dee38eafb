//! Limits, roughly: what passes in a while is counted.

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::frames::frame;
use crate::world::{Host, in_own_namespace};

const RATE: u64 = 1_000_000;
const WHILE: Duration = Duration::from_secs(1);

/// Bytes that get from `a` to `b` while `a` sends as fast as it can.
fn passes(limits: serde_json::Value) -> u64 {
    let mut ports = json!([{ "id": "a", "network": "lan", "mac": "52:54:00:00:00:0a", "anti_spoofing": { "ip": false } },
                           { "id": "b", "network": "lan", "mac": "52:54:00:00:00:0b", "anti_spoofing": { "ip": false } }]);
    for (number, port) in ports.as_array_mut().unwrap().iter_mut().enumerate() {
        let own = limits[number].as_object().unwrap().clone();
        port.as_object_mut().unwrap().extend(own);
    }
    let host = Host::new(
        json!([{ "name": "cell", "kind": "isolated" }, { "name": "lan", "kind": "isolated" }]),
        ports,
    );
    host.apply();
    let (mut a, b) = (host.raw("a"), host.raw("b"));
    let bytes = frame(b.mac, a.mac, 0x88b5, &[7; 1000]);
    let start = Instant::now();
    let mut taken = b.tap().unwrap();
    let mut passed = 0;
    let mut buffer = [0; 4096];
    while start.elapsed() < WHILE {
        for _ in 0..20 {
            a.send(&bytes);
        }
        while let Ok(len) = taken.read(&mut buffer) {
            passed += len as u64;
        }
    }
    passed
}

/// What must pass at least and at most: the rate for a while and the burst, and half and double that.
fn holds(passed: u64) {
    let wanted = RATE + 131_072;
    assert!((wanted / 2..wanted * 2).contains(&passed), "{passed} bytes passed, {wanted} should");
}

#[test]
fn what_a_guest_receives_is_limited() {
    in_own_namespace(|| holds(passes(json!([{}, { "receive": { "bytes_per_second": RATE } }]))));
}

#[test]
fn what_a_guest_sends_is_limited() {
    in_own_namespace(|| holds(passes(json!([{ "send": { "bytes_per_second": RATE } }, {}]))));
}

#[test]
fn without_limits_much_more_passes() {
    in_own_namespace(|| {
        let passed = passes(json!([{}, {}]));
        assert!(passed > 4 * RATE, "{passed}");
    });
}
