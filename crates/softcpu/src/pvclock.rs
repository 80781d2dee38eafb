//! kvmclock: a page in guest memory from which the guest computes the time from its TSC, without asking anyone
//! (Linux Documentation/virt/kvm/x86/msr.rst).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::mem::Word;

/// MSR_KVM_WALL_CLOCK and MSR_KVM_SYSTEM_TIME with their first numbers and those now in use.
const MSR_WALL_CLOCK_OLD: u32 = 0x11;
const MSR_SYSTEM_TIME_OLD: u32 = 0x12;
const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// MSR_KVM_SYSTEM_TIME bit 0: the page is to be kept.
const ENABLE: u64 = 1;
/// pvclock_vcpu_time_info.flags: all processors' clocks agree, so time never runs back between them.
const TSC_STABLE: u8 = 1;

/// How nanoseconds follow from TSC ticks: `(ticks << shift) * multiplier >> 32`, a negative shift going right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    multiplier: u32,
    shift: i8,
}

impl Scale {
    /// The scale of a TSC of `khz` kHz: the multiplier is in its upper half, so as exact as it can be.
    fn of(khz: u32) -> Self {
        let mut shift = 0;
        let mut multiplier = (1_000_000u128 << 32) / u128::from(khz.max(1));
        while multiplier >= 1 << 32 {
            multiplier >>= 1;
            shift += 1;
        }
        while multiplier < 1 << 31 {
            shift -= 1;
            multiplier = (1_000_000u128 << (32 - i32::from(shift))) / u128::from(khz.max(1));
        }
        Self { multiplier: multiplier as u32, shift }
    }
}

/// pvclock_vcpu_time_info without its version.
fn time_info(tsc: u64, ns: u64, scale: Scale) -> [u8; 28] {
    let mut info = [0; 28];
    info[4..12].copy_from_slice(&tsc.to_le_bytes());
    info[12..20].copy_from_slice(&ns.to_le_bytes());
    info[20..24].copy_from_slice(&scale.multiplier.to_le_bytes());
    info[24] = scale.shift as u8;
    info[25] = TSC_STABLE;
    info
}

impl Cpu {
    /// WRMSR to one of kvmclock's MSRs.
    pub(crate) fn kvmclock_write(&mut self, msr: u32, value: u64) -> Result<(), Trap> {
        match msr {
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_OLD => {
                self.msrs.kvm_system_time = value;
                self.kvmclock_update();
            }
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_OLD => {
                self.msrs.kvm_wall_clock = value;
                self.write_wall_clock(value);
            }
            _ => return Err(self.gp0()),
        }
        Ok(())
    }

    /// RDMSR of one of kvmclock's MSRs.
    pub(crate) fn kvmclock_read(&mut self, msr: u32) -> Result<u64, Trap> {
        match msr {
            MSR_SYSTEM_TIME | MSR_SYSTEM_TIME_OLD => Ok(self.msrs.kvm_system_time),
            MSR_WALL_CLOCK | MSR_WALL_CLOCK_OLD => Ok(self.msrs.kvm_wall_clock),
            _ => Err(self.gp0()),
        }
    }

    /// Writes the time page again; to be called whenever `tsc_offset` changes.
    pub(crate) fn kvmclock_update(&mut self) {
        let address = self.msrs.kvm_system_time;
        if address & ENABLE == 0 {
            return;
        }
        let clock = &self.system.clock;
        let ns = clock.now_ns();
        let tsc = clock.ns_to_tsc(ns).wrapping_add(self.tsc_offset);
        let info = time_info(tsc, ns, Scale::of(clock.tsc_khz()));
        self.write_versioned(address & !ENABLE, &info);
    }

    /// pvclock_wall_clock: the wall time at which guest time was 0.
    fn write_wall_clock(&mut self, address: u64) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let boot = wall.saturating_sub(u128::from(self.system.clock.now_ns()));
        let mut info = [0; 8];
        info[..4].copy_from_slice(&((boot / 1_000_000_000) as u32).to_le_bytes());
        info[4..].copy_from_slice(&((boot % 1_000_000_000) as u32).to_le_bytes());
        self.write_versioned(address, &info);
    }

    /// Writes a structure that begins with a version: odd while its body changes, even and new afterwards.
    fn write_versioned(&mut self, gpa: u64, body: &[u8]) {
        let changing = self.word_at::<u32>(gpa).wrapping_add(1) | 1;
        self.write_physical(gpa, &changing.to_le_bytes());
        self.write_physical(gpa.wrapping_add(4), body);
        self.write_physical(gpa, &changing.wrapping_add(1).to_le_bytes());
    }

    /// A word of guest RAM; 0 where there is none, or where it lies over the end of a page.
    pub(crate) fn word_at<W: Word + Default>(&self, gpa: u64) -> W {
        let within = (gpa & 0xfff) as usize;
        match self.frame_of(gpa) {
            Some(frame) if within + size_of::<W>() <= 0x1000 => {
                // SAFETY: its bytes lie in one page of guest RAM, which `GuestMemory::frame` promises is readable.
                unsafe { W::load(frame.host.as_ptr().wrapping_add(within)) }
            }
            _ => W::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest_ns(ticks: u64, scale: Scale) -> u64 {
        let shifted = if scale.shift < 0 { ticks >> -scale.shift } else { ticks << scale.shift };
        ((u128::from(shifted) * u128::from(scale.multiplier)) >> 32) as u64
    }

    #[test]
    fn a_tsc_of_one_gigahertz_is_scaled_exactly() {
        let scale = Scale::of(1_000_000);
        assert_eq!(scale, Scale { multiplier: 0x8000_0000, shift: 1 });
        for ticks in [0, 1, 12_345_678_901, 1 << 60] {
            assert_eq!(guest_ns(ticks, scale), ticks);
        }
    }

    #[test]
    fn other_frequencies_are_right_to_a_billionth() {
        for khz in [1_000, 999_999, 1_000_001, 2_596_000, 5_000_000, u32::MAX] {
            let hour = 3_600_000_000_000u64;
            let ticks = (u128::from(hour) * u128::from(khz) / 1_000_000) as u64;
            let ns = guest_ns(ticks, Scale::of(khz));
            assert!(ns.abs_diff(hour) <= hour / 1_000_000_000 + 2, "{khz} kHz: {ns}");
        }
    }

    #[test]
    fn the_time_page_has_the_layout_of_the_interface() {
        let info = time_info(
            0x1122_3344_5566_7788,
            0x99aa_bbcc_ddee_ff00,
            Scale { multiplier: 0x8000_0000, shift: -1 },
        );
        assert_eq!(info[..4], [0; 4]);
        assert_eq!(info[4..12], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(info[12..20], 0x99aa_bbcc_ddee_ff00u64.to_le_bytes());
        assert_eq!(info[20..], [0, 0, 0, 0x80, 0xff, 1, 0, 0]);
    }
}
