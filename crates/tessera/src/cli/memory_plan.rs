//! `tessera memory plan`: what a pool of memory stands, by what guests use.

use std::collections::BTreeMap;
use std::fmt::Write;

use api::{MemoryOfGuest, MemoryPool, Size};
use share::memory::{Pressure, Wants, targets};

use crate::failure::{Failure, Result};

/// The guests of a host that say what they use, and so many more like one of them.
///
/// # Errors
/// If none of this name runs, or it does not say what it uses.
pub fn guests(now: &MemoryPool, add: u32, like: Option<&str>) -> Result<Vec<MemoryOfGuest>> {
    let mut guests: Vec<_> = now.guests.iter().filter(|guest| guest.now.active.is_some()).cloned().collect();
    if let Some(like) = like {
        let none = || {
            Failure::input(format!("--like {like}: no guest of this name runs and says what memory it uses"))
        };
        let one = guests.iter().find(|guest| guest.name.as_str() == like).cloned().ok_or_else(none)?;
        guests.extend(std::iter::repeat_n(one, add as usize));
    }
    if guests.is_empty() {
        return Err(Failure::input(
            "no guest runs that says what memory it uses: there is nothing to plan by",
        ));
    }
    Ok(guests)
}

/// What of a pool others do not get whatever is planned, bytes: what guests have that do not say what they use, and how many those are; and what each of these guests' processes takes
/// besides its guest's memory, as far as that is seen.
fn kept(now: &MemoryPool, guests: &[MemoryOfGuest]) -> (Size, usize, Size) {
    let silent = now.guests.iter().filter(|guest| guest.now.active.is_none());
    let (count, has) = silent.fold((0, 0), |(count, has), guest| (count + 1, has + guest.now.resident.0));
    let besides = guests.iter().map(|guest| guest.now.resident.0.saturating_sub(guest.now.held.0)).sum();
    (Size(has), count, Size(besides))
}

/// What a pool of this size is to these guests, beside those that `now` run and do not say what they use.
pub fn told(pool: Size, now: &MemoryPool, guests: &[MemoryOfGuest]) -> String {
    let bytes = |size: Size| size.0 as f64;
    let wants: Vec<_> = guests
        .iter()
        .map(|guest| Wants {
            share: guest.promised.share(),
            size: bytes(guest.now.size),
            active: bytes(guest.now.active.unwrap_or_default()),
        })
        .collect();
    let (size, used): (f64, f64) =
        (wants.iter().map(|of| of.size).sum(), wants.iter().map(|of| of.active).sum());
    let (has, silent, besides) = kept(now, guests);
    // Some of it is always to be free.
    let room = ((bytes(pool) - bytes(has) - bytes(besides)) * (1.0 - Pressure::MARGIN)).max(0.0);
    let shown = |bytes: f64| Size(bytes as u64);
    let mut text = String::new();
    let mut say = |line: String| {
        // Writing to a string never fails.
        let _ = writeln!(text, "{line}");
    };
    say(format!(
        "{} guests believe to have {}, {:.2} times the pool of {pool}, and use {} of it",
        guests.len(),
        shown(size),
        size / bytes(pool),
        shown(used)
    ));
    if silent > 0 {
        say(format!("{silent} more do not say what they use, and keep the {has} that they have"));
    }
    if besides.0 > 0 {
        say(format!("their processes need {besides} besides"));
    }
    say(match room - used {
        left if left >= 0.0 => format!("all of that fits: {} are left for what they do not use", shown(left)),
        left => format!("that is {} more than the pool can give", shown(-left)),
    });
    let mean = used / guests.len() as f64;
    let most = (room / mean.max(1.0)).floor();
    say(format!(
        "guests that use as much as these, {} each, fit {most} times: {:.2} times the pool of what they believe to have",
        shown(mean),
        most * size / guests.len() as f64 / bytes(pool)
    ));
    // Those that were added are called as the one that they are like.
    let mut short = BTreeMap::<&str, (usize, String)>::new();
    for (guest, (want, target)) in guests.iter().zip(wants.iter().zip(targets(room, &wants))) {
        if target < want.active * 0.99 {
            let has = format!("would have {} of the {} that it uses", shown(target), shown(want.active));
            short.entry(guest.name.as_str()).or_insert((0, has)).0 += 1;
        }
    }
    for (name, (count, has)) in short {
        let and = if count > 1 { format!(", as {} like it,", count - 1) } else { String::new() };
        say(format!("  {name}{and} {has}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str, active: Option<u64>, weight: u32) -> MemoryOfGuest {
        let size = |mib: u64| Size(mib << 20);
        MemoryOfGuest {
            id: api::Id::new(),
            name: name.parse().unwrap(),
            promised: api::MemoryShare { weight, ..Default::default() },
            now: api::MemoryNow {
                size: size(512),
                held: size(512),
                resident: size(512),
                merged: Size(0),
                out: Size(0),
                active: active.map(size),
                target: None,
            },
        }
    }

    fn pool(guests: Vec<MemoryOfGuest>) -> MemoryPool {
        let (reserved, used) = Default::default();
        MemoryPool {
            size: Some(Size(1 << 30)),
            reserved,
            used,
            pressure: Default::default(),
            merging: None,
            compression: None,
            paging: None,
            flow: None,
            guests,
        }
    }

    #[test]
    fn a_plan_tells_what_fits_and_who_would_be_short() {
        let mut now =
            pool(vec![guest("a", Some(200), 1000), guest("b", Some(100), 2000), guest("c", None, 1000)]);
        let mut silent = now.clone();
        let said = told(Size(1 << 30), &silent, &guests(&silent, 0, None).unwrap());
        assert!(
            said.contains("1 more do not say what they use, and keep the 512M that they have\n"),
            "{said}"
        );
        assert!(said.contains("all of that fits: 181.3M are left"), "{said}");
        silent.guests[0].now.resident = Size(532 << 20);
        let said = told(Size(1 << 30), &silent, &guests(&silent, 2, Some("a")).unwrap());
        assert!(said.contains("their processes need 60M besides\n"), "{said}");
        now.guests.pop();
        let said = told(Size(1 << 30), &now, &guests(&now, 0, None).unwrap());
        assert_eq!(
            said,
            "2 guests believe to have 1G, 1.00 times the pool of 1G, and use 300M of it\n\
             all of that fits: 662.6M are left for what they do not use\n\
             guests that use as much as these, 150M each, fit 6 times: 3.00 times the pool of what they believe to have\n"
        );
        let said = told(Size(1 << 30), &now, &guests(&now, 4, Some("a")).unwrap());
        assert!(said.contains("that is 137.4M more than the pool can give\n"), "{said}");
        assert!(
            said.contains("  a, as 4 like it, would have 161.4M of the 200M that it uses\n")
                && !said.contains("  b would"),
            "{said}"
        );
        assert!(guests(&now, 1, Some("c")).is_err() && guests(&pool(Vec::new()), 0, None).is_err());
    }
}
